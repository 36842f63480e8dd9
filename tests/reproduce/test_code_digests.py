import pytest

from monkeylib.reproduce import code_digests


@pytest.fixture()
def package(tmp_path):
    files = {
        "__init__.py": '"""A library."""\n',
        "alone.py": "X = 1\n",
        "top.py": "def f():\n    from library.rooms import kitchen\n    return kitchen\n",
        "rooms/__init__.py": "",
        "rooms/kitchen.py": "from ..alone import X\nfrom . import pantry\n",
        "rooms/pantry.py": "import json\n",
        "rooms/list.yaml": "a: 1\n",
        "rooms/unused.py": "Y = 2\n",
    }
    for name, text in files.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "library"


def test_imports_are_followed_through_functions_packages_and_relative_names(package):
    files = set(code_digests.code_digests("from library import top", package))
    assert files == {
        "library/__init__.py",
        "library/top.py",
        "library/alone.py",
        "library/rooms/__init__.py",
        "library/rooms/kitchen.py",
        "library/rooms/pantry.py",
        "library/rooms/list.yaml",
    }
    assert set(code_digests.code_digests("import library.alone", package)) == {
        "library/__init__.py",
        "library/alone.py",
    }
    assert code_digests.code_digests("import numpy", package) == {}


def test_only_code_changes_digests_not_comments_or_docstrings(package):
    before = code_digests.code_digests("import library.alone", package)
    (package / "alone.py").write_text('"""One."""\n\nX = 1  # a comment\n')
    assert code_digests.code_digests("import library.alone", package) == before
    (package / "alone.py").write_text("X = 2\n")
    assert code_digests.code_digests("import library.alone", package) != before
