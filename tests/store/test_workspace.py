"""Workspaces: work in progress goes with its owner."""

from __future__ import annotations

import os

from trtpipe.store.workspace import sweep


def test_work_in_progress_is_gone_afterwards_and_stale_work_is_swept(store):
    stale = os.path.join(store.folder, "tmp", "999999999-00000000dead")
    os.makedirs(stale)
    os.utime(stale, (1, 1))
    with store.workspace() as folder:
        assert os.listdir(os.path.join(store.folder, "tmp")) == [os.path.basename(folder)]
    assert os.listdir(os.path.join(store.folder, "tmp")) == []


def test_a_sweep_leaves_folders_alone_that_are_not_workspaces(store):
    os.makedirs(os.path.join(store.folder, "tmp", "mine"))
    os.makedirs(os.path.join(store.folder, "tmp", "1-0123456789ab"))
    sweep(store.layout)
    assert os.listdir(os.path.join(store.folder, "tmp")) == ["mine"]
