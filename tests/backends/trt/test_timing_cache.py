"""The file of a timing cache, with the calls of the real TensorRT-RTX."""

from __future__ import annotations

import pytest

from tests.backends.trt.rtx import needs_rtx
from trtpipe.backends.trt import timing_cache
from trtpipe.backends.trt.timing_cache import TimingCache
from trtpipe.errors import StageFailed


@needs_rtx
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_torn_timing_cache_is_ignored_loudly_and_a_good_one_is_replaced_whole(rtx, tmp_path):
    # RTX has no use for timing caches, but the same calls: enough to see the file handled.
    from polygraphy.backend.trt import create_network

    builder, _network = create_network()
    notes = []
    cache = TimingCache(rtx.library, timing_cache.place(rtx.library, tmp_path), notes.append)
    assert cache.path.parent.parent == tmp_path
    assert cache.path.parent.name.startswith(f"tensorrt_rtx-{rtx.version}-")
    config = builder.create_builder_config()
    cache.attach(config)
    assert not notes
    cache.finish(config, complete=False)
    saved = cache.path.read_bytes()
    assert saved
    assert sorted(p.name for p in cache.path.parent.iterdir()) == ["lock", "timing.cache"]
    cache.path.write_bytes(b"torn")
    config = builder.create_builder_config()
    cache.attach(config)
    assert notes == ["ignored the timing cache timing.cache: it is torn, or of another TensorRT or GPU"]
    cache.finish(config, complete=False)
    assert cache.path.read_bytes() == saved
    pinned = tmp_path / "pinned.cache"
    pinned.write_bytes(b"torn")
    with pytest.raises(StageFailed, match="the timing cache pinned.cache is torn, or of another TensorRT or GPU"):
        TimingCache(rtx.library, pinned, notes.append, pinned=True).attach(builder.create_builder_config())
    assert pinned.read_bytes() == b"torn"
