"""Tests that digests of Python source do not depend on the version of Python."""

from utils.code import code_digest


def test_the_digest_is_the_same_in_every_version_of_python():
    """Folder names contain it, but `ast` differs between versions. 3.10 to 3.13 were compared."""
    text = 'def f(a, *, b=None) -> int:\n    "doc"\n    return f"{a!r:>{b}} {1.5}" or u"x"\n'
    assert code_digest(text.encode()) == "fbaba75036a5f80e"


def test_text_that_is_not_python_has_the_digest_of_its_bytes():
    texts = [b"(", b"( ", b"\0", b"'\xe9'", b"pass"]
    assert len({code_digest(text) for text in texts}) == len(texts)
