import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeylib import digests

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_digests_are_equal_exactly_for_equal_values(first, second):
    equal = ordered(first) == ordered(second)
    assert (digests.data_digest(first) == digests.data_digest(second)) == equal


def ordered(value) -> str:
    """The value in writing, keys in order."""
    if isinstance(value, dict):
        return f"{{{[(key, ordered(value[key])) for key in sorted(value)]}}}"
    return str([ordered(item) for item in value]) if isinstance(value, list) else repr(value)


def test_the_last_bits_of_a_float_do_not_count_and_the_others_do():
    array = np.array([0.1, -0.0, 3.0])
    assert digests.data_digest(array) == digests.data_digest(array + 1e-12)
    assert digests.data_digest(array) != digests.data_digest(array + 1e-3)
    assert digests.data_digest(0.3) == digests.data_digest(0.1 + 0.2)
    assert digests.data_digest(array) == digests.data_digest(torch.tensor(array))
    assert digests.data_digest(array) != digests.data_digest(array.reshape(3, 1))


def test_images_tables_and_files_count_with_their_content(tmp_path):
    white, black = Image.new("RGB", (4, 4), "white"), Image.new("RGB", (4, 4))
    assert digests.data_digest(white) != digests.data_digest(black)
    first, second = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})
    assert digests.data_digest(first) != digests.data_digest(second)
    file = tmp_path / "a.csv"
    file.write_bytes(b"a\n1\n")
    assert digests.file_digest(file) == hashlib.sha256(b"a\n1\n").hexdigest()
    digest = digests.data_digest([file])
    file.write_bytes(b"a\n2\n")
    assert digests.data_digest([file]) != digest


def test_what_has_no_digest_is_refused():
    with pytest.raises(ValueError, match="got object"):
        digests.data_digest(object())


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
    reached = set(digests.code_digests("from house import top", package))
    assert reached == {
        "house/__init__.py",
        "house/top.py",
        "house/alone.py",
        "house/rooms/__init__.py",
        "house/rooms/kitchen.py",
        "house/rooms/pantry.py",
        "house/rooms/list.yaml",
    }
    assert set(digests.code_digests("import house.alone", package)) == {
        "house/__init__.py",
        "house/alone.py",
    }
    assert digests.code_digests("import numpy", package) == {}


def test_comments_and_docstrings_change_no_digest_and_code_does(package):
    before = digests.code_digests("import house.alone", package)
    (package / "alone.py").write_text('"""One."""\n\nX = 1  # a comment\n')
    assert digests.code_digests("import house.alone", package) == before
    (package / "alone.py").write_text("X = 2\n")
    assert digests.code_digests("import house.alone", package) != before
