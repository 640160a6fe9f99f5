// Stands in for a test that needs a GPU where there is no toolkit to build it with.
#include <gtest/gtest.h>

TEST(NeedsGpu, TEST_NAME) { GTEST_SKIP() << "built without a CUDA toolkit"; }
