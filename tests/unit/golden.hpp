// SPDX-License-Identifier: Apache-2.0
// Golden files: text that people review as text, in tests/golden. WEFT_UPDATE_GOLDEN=1 rewrites them; the folder is
// found from the repository root, where `make` runs the tests, or through WEFT_GOLDEN_DIR.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace weft::testing {

inline void check_golden(const std::string& name, const std::string& text) {
    const char* folder = std::getenv("WEFT_GOLDEN_DIR");
    const std::string path = (folder == nullptr ? std::string("tests/golden") : std::string(folder)) + "/" + name;
    if (const char* update = std::getenv("WEFT_UPDATE_GOLDEN"); update != nullptr && std::string(update) == "1") {
        std::ofstream(path, std::ios::binary) << text;
        return;
    }
    std::ifstream file(path, std::ios::binary);
    INFO("golden file " << path << "; if the new text is right, run again with WEFT_UPDATE_GOLDEN=1 and review");
    REQUIRE(file.good());
    const std::string wanted{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    CHECK(text == wanted);
}

}  // namespace weft::testing
