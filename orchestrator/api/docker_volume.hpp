// SPDX-License-Identifier: Apache-2.0
// Docker's volume plugin protocol: request value in, calls of the service, response value out. No sockets, no state.
//
// The laws (facts from moby's source and from dockerd 20.10.24, see API.md):
//   - An answered error to Get makes dockerd forget the volume, and a later `docker run` may then make a local one that
//     shadows it. So "no such volume" is answered only when the service is certain; else the connection is dropped.
//   - dockerd repeats a request whose connection broke with an EMPTY body. An empty body never means a volume named "";
//     and an empty Get, being the repetition of one that was dropped, is dropped too.
//   - Any other error is answered as {"Err": text} with HTTP 500.
// Thread-safe as far as the service is; blocks as long as it does.
#pragma once

#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"
#include "orchestrator/api/http.hpp"
#include "orchestrator/api/service.hpp"

namespace weft {

inline constexpr std::string_view docker_content_type = "application/vnd.docker.plugins.v1.2+json";

enum class docker_call : std::uint8_t { activate, capabilities, create, remove, mount, unmount, path, get, list };

/// What dockerd sends; the fields that a call has not are empty.
struct docker_request {
    std::string name;        // never empty where the call has one; not yet checked against the grammar
    std::string mount_id;    // never empty for mount and unmount
    volume_options options;  // create only; null and missing mean none
};

/// The body of a call, as a pure function for the fuzzer. activate, capabilities and list ignore theirs. Unknown fields
/// are ignored (newer Docker versions may send more). Errors: invalid_argument, naming the field.
result<docker_request> decode_docker_request(docker_call call, std::string_view body);

class docker_volume {
public:
    /// `served` must outlive this.
    explicit docker_volume(service& served) : service_(served) {}

    http_response handle(const http_request& request) const;

    /// {"Err": text} with this HTTP status; also the server's http_refusal.
    static http_response refusal(unsigned http_status, const std::string& text);

private:
    [[nodiscard]] http_response call(docker_call which, const std::string& body) const;
    [[nodiscard]] http_response get(const std::string& name) const;
    [[nodiscard]] http_response path(const std::string& name) const;
    [[nodiscard]] http_response list() const;

    service& service_;
};

}  // namespace weft
