"""What the tests of the store share: keys, artifacts that are committed, and nothing locked."""

from __future__ import annotations

import os

from trtpipe.documents.action import About
from trtpipe.key import Key
from trtpipe.store.artifact import Hit
from trtpipe.store.gc import Needed

ABOUT = About(seconds=1.5, notes=("hello",))


def a_key(name="x"):
    return Key("parse", 1, {"name": name}, {}, {}, {})


def content_of(path):
    with open(path, "rb") as stream:
        return stream.read()


def commit(store, files, key=None, kind="results", known=()):
    with store.workspace() as folder:
        for name, content in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as stream:
                stream.write(content)
        return store.commit(key or a_key(), kind, folder, ABOUT, known)


def several(store, count=4, size=40_000):
    made = []
    for number in range(count):
        key = a_key(str(number))
        made.append((key, commit(store, {"f": bytes([number]) * size}, key)))
        store.tree(made[-1][1])
        store.show("p", f"s{number}", made[-1][1])
        os.utime(store.action_path(key.digest), (1000 + number, 1000 + number))
    return made


def there(store, made):
    return [isinstance(store.lookup(key.digest), Hit) for key, _ in made]


def nothing_locked():
    return Needed({}, {}, {})
