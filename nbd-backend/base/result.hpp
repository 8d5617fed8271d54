// SPDX-License-Identifier: Apache-2.0
// result<T>: a value or an error. Dropping one is a compile-time warning.
//
// A thin name over boost::system::result so that both compilers of Debian 12 accept it (<expected> needs C++23 there
// and clang 14 has none). `TRY` returns the error to the caller; `TRY_ASSIGN` also binds the value.
#pragma once

#include <boost/system/result.hpp>

#include "nbd-backend/base/error.hpp"

namespace weft {

/// boost::system::result wants to know how value() throws; Weft never calls value() on an error.
[[noreturn]] void throw_exception_from_error(const error& e, const boost::source_location& where);

template <typename T>
class [[nodiscard]] result : public boost::system::result<T, error> {
public:
    using boost::system::result<T, error>::result;
};

using status = result<void>;

/// Success without a value.
inline status ok() {
    return {};
}

}  // namespace weft

#define WEFT_CONCAT_(a, b) a##b
#define WEFT_CONCAT(a, b) WEFT_CONCAT_(a, b)

/// TRY(expr): evaluate a result, return its error to the caller, drop the value.
#define TRY(expr)                                                                                                  \
    do {                                                                                                           \
        if (auto weft_try_result = (expr); weft_try_result.has_error()) return std::move(weft_try_result).error(); \
    } while (false)

/// TRY_ASSIGN(auto x, expr): evaluate a result, return its error to the caller, else bind its value.
#define TRY_ASSIGN_(tmp, decl, expr)                    \
    auto tmp = (expr);                                  \
    if (tmp.has_error()) return std::move(tmp).error(); \
    decl = std::move(*tmp)
#define TRY_ASSIGN(decl, expr) TRY_ASSIGN_(WEFT_CONCAT(weft_try_, __LINE__), decl, expr)
