"""The kit that proves a method: what every shipped method is tested with, for methods of other packages too.

from lit_cvit.testing import method_tests

TestMine = method_tests("my_package.MyMethod", penalty=0.1)
"""

import pytest

# A failing promise then says what differs.
pytest.register_assert_rewrite("lit_cvit.testing.kit")

from lit_cvit.testing.kit import MethodTests, Row, classes_by_row, method_tests  # noqa: E402

__all__ = ["MethodTests", "Row", "method_tests", "classes_by_row"]
