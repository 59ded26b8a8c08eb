from __future__ import annotations

from conftest_audit import episodes, make_folder, write_log

__all__ = ["episodes", "make_folder", "write_log"]
