// SPDX-License-Identifier: Apache-2.0
// A mutator that knows what all our text formats have in common: numbers, words, and parts between separators.
//
// libFuzzer's own mutators break the syntax of JSON nearly always, so that decoders hardly ever see a well-formed text
// with an odd value. Most of the mutations here keep the syntax: another number in place of a number, another word of
// the same input in place of a word, a part between two separators repeated, dropped or put elsewhere. The rest are
// libFuzzer's. Deterministic under libFuzzer's seed.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

struct span {
    std::size_t begin = 0, end = 0;
};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '%';
}

template <typename Predicate>
std::vector<span> runs_of(const std::string& text, Predicate belongs) {
    std::vector<span> all;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (!belongs(text[i])) continue;
        if (all.empty() || all.back().end != i) all.push_back({i, i});
        all.back().end = i + 1;
    }
    return all;
}

class mutation {
public:
    mutation(std::string text, unsigned seed) : text_(std::move(text)), random_(seed) {}

    std::string apply() {
        switch (pick(4)) {
            case 0:
            case 1: change_number(); break;
            case 2: change_word(); break;
            default: move_part(); break;
        }
        return std::move(text_);
    }

private:
    std::size_t pick(std::size_t below) { return below == 0 ? 0 : random_() % below; }

    /// Limits are where decoders go wrong: powers of two, one less, one more, and any small number.
    std::string number() {
        switch (pick(4)) {
            case 0: return std::to_string(pick(16));
            case 1: return std::to_string(random_() % 100000);
            case 2: return std::to_string((std::uint64_t{1} << pick(64)) - pick(3) + 1);
            default: {
                static constexpr std::array<const char*, 6> odd = {
                    "18446744073709551615", "18446744073709551616", "-1", "1.5", "1e9", "00"};
                return odd[pick(odd.size())];
            }
        }
    }

    void change_number() {
        auto all = runs_of(text_, is_digit);
        // Not the digits of an id or an address: any change breaks those.
        std::erase_if(
            all, [this](span it) { return it.begin > 0 && std::strchr(":=,[ \n/", text_[it.begin - 1]) == nullptr; });
        if (all.empty()) return;
        const span where = all[pick(all.size())];
        text_.replace(where.begin, where.end - where.begin, number());
    }

    void change_word() {
        const auto all = runs_of(text_, is_word);
        if (all.empty()) return;
        const span where = all[pick(all.size())];
        const span other = all[pick(all.size())];
        std::string word = text_.substr(other.begin, other.end - other.begin);
        switch (pick(4)) {
            case 0: word = pick(2) == 0 ? "true" : "false"; break;
            case 1: word += static_cast<char>(pick(256)); break;
            case 2: std::reverse(word.begin(), word.end()); break;
            default: break;
        }
        text_.replace(where.begin, where.end - where.begin, word);
    }

    void move_part() {
        static constexpr const char* separators = ",\n /:{}[]=&.";
        const auto all = runs_of(text_, [](char c) { return std::strchr(separators, c) == nullptr || c == '\0'; });
        if (all.empty()) return;
        const span what = all[pick(all.size())];
        const span to = all[pick(all.size())];
        // With the separator after it, so that a list stays a list.
        const std::string part = text_.substr(what.begin, what.end - what.begin + 1);
        if (pick(2) == 0)
            text_.insert(to.begin, part);
        else
            text_.erase(what.begin, part.size());
    }

    std::string text_;
    std::minstd_rand random_;
};

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    if (size == 0 || seed % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
    const std::string text = mutation({reinterpret_cast<const char*>(data), size}, seed).apply();
    const std::size_t length = std::min(text.size(), max_size);
    std::memcpy(data, text.data(), length);
    return length;
}
