"""Write the public names of TensorRT's Python bindings, from their wheels, without a GPU and without the libraries.

python tests/backends/trt/api/snapshot.py WHEEL...   (the Python that the wheels are for; needs gcc, nm and readelf)
python tests/backends/trt/api/snapshot.py --module tensorrt_rtx_bindings   (one that imports here)

The libraries that the bindings ask for are stood in for by empty ones with the same symbols: importing the
bindings registers classes and enums, and calls nothing. Writes <flavour>-<version>.json beside this file:
{"flavour", "version", "names": {class or enum: [public names]}}.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DUMP = """
import importlib, inspect, json, os, sys
top = importlib.import_module(sys.argv[1])
version = getattr(top, "__version__", None)
module = top
module = getattr(module, "tensorrt", getattr(module, "tensorrt_rtx", module))
names = {}
for name in sorted(dir(module)):
    value = getattr(module, name)
    if name.startswith("_") or inspect.ismodule(value):
        continue
    inner = [n for n in sorted(dir(value)) if not n.startswith("_")] if inspect.isclass(value) else []
    names[name] = inner
with open(sys.argv[2], "w") as stream:
    json.dump({"version": version, "names": names}, stream)
os._exit(0)  # no destructors: there is no library behind them
"""


def dump(module: str, env: dict[str, str]) -> dict[str, object]:
    """Import a module in a process of its own and give its names."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        done = subprocess.run(
            [sys.executable, "-c", DUMP, module, out.name], env={**os.environ, **env}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{module} cannot be imported:\n{done.stderr[-2000:]}")
        found: dict[str, object] = json.loads(Path(out.name).read_text())
        return found


def stubs(library: Path, folder: Path) -> None:
    """Make empty libraries with every symbol that a library asks of others than the system."""
    needed = re.findall(r"\(NEEDED\).*\[(\S+)\]", subprocess.check_output(["readelf", "-d", library], text=True))
    foreign = [n for n in needed if n.startswith(("libnv", "libtensorrt"))]
    listed = subprocess.check_output(["nm", "-D", "--undefined-only", library], text=True)
    symbols = re.findall(r"^\s+U ([A-Za-z_]\w*)$", listed, re.MULTILINE)
    symbols = [s for s in symbols if not s.startswith(("Py", "_Py"))]
    source = folder / "stub.c"
    source.write_text("".join(f"void *{s}(void) {{ return 0; }}\n" for s in symbols))
    for name in foreign:
        command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{name}", "-o", folder / name, source]
        subprocess.run(command, check=True)


def from_wheel(wheel: Path) -> dict[str, object]:
    """Give a wheel's names."""
    with tempfile.TemporaryDirectory() as top:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(top)
        library = next(p for p in Path(top).glob("*/tensorrt*.so"))
        stubs(library, Path(top))
        # The package's own __init__ looks for the real libraries; the extension alone does not.
        found = dump(library.stem.split(".")[0], {"PYTHONPATH": str(library.parent), "LD_LIBRARY_PATH": top})
        found["version"] = wheel.name.split("-")[1]
        return found


def main() -> None:
    """Write a file for each wheel or module named."""
    if sys.argv[1] == "--module":
        made = {sys.argv[2]: dump(sys.argv[2], {})}
    else:
        made = {Path(name).name: from_wheel(Path(name)) for name in sys.argv[1:]}
    for name, found in made.items():
        flavour = "tensorrt_rtx" if "rtx" in name else "tensorrt"
        lines = [f'  "{key}": {json.dumps(values)}' for key, values in found["names"].items()]  # type: ignore[attr-defined]
        path = HERE / f"{flavour}-{found['version']}.json"
        head = f'{{"flavour": "{flavour}", "version": "{found["version"]}", "names": {{\n'
        path.write_text(head + ",\n".join(lines) + "\n}}\n")
        print(path, len(lines))


if __name__ == "__main__":
    main()
