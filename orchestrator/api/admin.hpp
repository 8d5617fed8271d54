// SPDX-License-Identifier: Apache-2.0
// The admin API of weftd as a pure face: request value in, calls of the service, response value out (API.md has routes,
// fields and statuses).
//
// Strict where Docker's protocol is lenient: unknown fields and query parameters are refused by name, a method that a
// route has not is 405, and creating an existing volume is an error. The target is split before it is percent-decoded
// and never normalised: "%2F" cannot become a path separator, ".." is just a bad name.
// Thread-safe as far as the service is; blocks as long as it does.
#pragma once

#include <string>
#include <string_view>

#include "nbd-backend/base/error.hpp"
#include "orchestrator/api/http.hpp"
#include "orchestrator/api/service.hpp"

namespace weft {

/// The HTTP status that an error is answered with.
unsigned http_status_of(errc code) noexcept;

class admin {
public:
    /// `served` must outlive this.
    explicit admin(service& served) : service_(served) {}

    http_response handle(const http_request& request) const;

    /// {"error":{"code":…,"text":…}} with this HTTP status; also the server's http_refusal.
    static http_response refusal(unsigned http_status, const std::string& text);
    static http_response failure(const error& problem);

private:
    service& service_;
};

/// Percent-encodes everything but unreserved characters (RFC 3986 2.3), for one path segment or query value.
std::string percent_encode(std::string_view text);

/// Errors: invalid_argument (a % without two hexadecimal digits, or %00).
result<std::string> percent_decode(std::string_view text);

}  // namespace weft
