"""The kit that proves a method: what every shipped method is tested with, for methods of other packages too.

from lit_cvit.testing import method_tests

TestMine = method_tests("my_package.MyMethod", penalty=0.1)
"""

from lit_cvit.testing.kit import MethodTests, Row, method_tests

__all__ = ["MethodTests", "Row", "method_tests"]
