"""The lock on a folder."""

import time
from concurrent.futures import ThreadPoolExecutor

from utils.files import exclusive_folder


def test_whoever_waits_for_a_folder_says_so(tmp_path, printed):
    def enter():
        with exclusive_folder(tmp_path):
            return True

    lines = ""
    with ThreadPoolExecutor(1) as pool:
        with exclusive_folder(tmp_path):
            other = pool.submit(enter)
            for _ in range(100):
                lines += printed().out
                if lines:
                    break
                time.sleep(0.05)
            assert not other.done()
        assert other.result(timeout=10)
    assert lines == f"waiting for another process in {tmp_path}\n"
