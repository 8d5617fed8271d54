// SPDX-License-Identifier: Apache-2.0
// Says a lasting trouble once: the reconciler meets the same failure at every pass, people want to read of it when it
// begins, when it changes and when it is over.
#pragma once

#include <map>
#include <mutex>
#include <string>

namespace weft {

class trouble_board {
public:
    /// True if this is news for `key`.
    bool begins(const std::string& key, const std::string& text) {
        const std::lock_guard lock(mutex_);
        auto& known = troubles_[key];
        if (known == text) return false;
        known = text;
        return true;
    }
    /// True if there was a trouble.
    bool ends(const std::string& key) {
        const std::lock_guard lock(mutex_);
        return troubles_.erase(key) > 0;
    }

private:
    std::mutex mutex_;
    std::map<std::string, std::string> troubles_;
};

}  // namespace weft
