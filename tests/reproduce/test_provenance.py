import pytest

from monkeylib.reproduce import provenance


@pytest.fixture()
def package(tmp_path):
    files = {
        "__init__.py": '"""A house."""\n',
        "alone.py": "X = 1\n",
        "top.py": "def f():\n    from house.rooms import kitchen\n    return kitchen\n",
        "rooms/__init__.py": "",
        "rooms/kitchen.py": "from ..alone import X\nfrom . import pantry\n",
        "rooms/pantry.py": "import json\n",
        "rooms/list.yaml": "a: 1\n",
        "rooms/unused.py": "Y = 2\n",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "house"


def test_code_is_followed_through_functions_packages_and_relative_imports(package):
    reached = set(provenance.code_digests("from house import top", package))
    assert reached == {
        "house/__init__.py",
        "house/top.py",
        "house/alone.py",
        "house/rooms/__init__.py",
        "house/rooms/kitchen.py",
        "house/rooms/pantry.py",
        "house/rooms/list.yaml",
    }
    assert set(provenance.code_digests("import house.alone", package)) == {
        "house/__init__.py",
        "house/alone.py",
    }
    assert provenance.code_digests("import numpy", package) == {}


def test_comments_and_docstrings_change_no_digest_and_code_does(package):
    before = provenance.code_digests("import house.alone", package)
    (package / "alone.py").write_text('"""One."""\n\nX = 1  # a comment\n')
    assert provenance.code_digests("import house.alone", package) == before
    (package / "alone.py").write_text("X = 2\n")
    assert provenance.code_digests("import house.alone", package) != before
