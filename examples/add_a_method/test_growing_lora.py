"""Everything that the shipped methods are tested with, for a method of another package."""

from lit_cvit.testing import method_tests

TestGrowingLoRA = method_tests("growing_lora.GrowingLoRA", penalty=0.1)
