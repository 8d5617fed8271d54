// SPDX-License-Identifier: Apache-2.0
// HTTP requests and responses as values, so that the faces of weftd (docker_volume, admin) are pure functions and the
// socket server knows nothing of what it carries.
//
// Values only; any thread. Only what the two faces need: no trailers, no streaming, no header access.
#pragma once

#include <functional>
#include <string>

namespace weft {

struct http_request {
    std::string method;  // upper case, "GET"
    std::string target;  // as on the request line: path and query, still percent-encoded
    std::string body;
};

struct http_response {
    unsigned status = 200;
    std::string content_type = "application/json";
    std::string body;
    /// Close the connection without an answer: for the client a network error, which says nothing about the outcome.
    /// dockerd keeps what it knows of a volume then, but forgets it at any answered error (docker-plugin facts, Get).
    bool drop = false;
    /// Called once, after this answer was handed to the client's socket (true) or could not be (false); as a handler
    /// is, on some thread. Empty: nobody wants to know. Not called when the process ends first.
    std::function<void(bool delivered)> on_delivery = {};

    static http_response dropped() {
        http_response response;
        response.drop = true;
        return response;
    }
};

/// May block; called from many threads at once, one per connection at most. Must not throw: a thrown exception is
/// treated as `drop`, because nobody knows what was done.
using http_handler = std::function<http_response(const http_request&)>;

/// Makes the answer to a request that is refused before a handler sees it (too large, not HTTP). `status` is the HTTP
/// status, `text` is for people. Must not block.
using http_refusal = std::function<http_response(unsigned status, const std::string& text)>;

}  // namespace weft
