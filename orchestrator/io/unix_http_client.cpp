// SPDX-License-Identifier: Apache-2.0
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"  // Asio's fences; it has locks as well, which the sanitizer does see
#endif
#include "orchestrator/io/unix_http_client.hpp"

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "orchestrator/io/unix_listen.hpp"

namespace weft {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr std::uint64_t answer_max = 64 * 1024 * 1024;  // bytes; thousands of volumes fit in a few MiB

error explain(error_code failed, const std::string& path, std::chrono::milliseconds patience) {
    if (failed == beast::error::timeout)
        return error{
            errc::timed_out,
            fmt::format("weftd on '{}' gave no answer within {} s; it may still be at work: look before you ask "
                        "again",
                        path, patience.count() / 1000)};
    if (failed == http::error::end_of_stream || failed == http::error::partial_message ||
        failed.category() == boost::system::system_category() || failed == asio::error::eof)
        return error{
            errc::outcome_unknown,
            fmt::format("weftd on '{}' closed the connection without an answer ({}): look before you ask again", path,
                        failed.message())};
    return error{errc::corrupt, fmt::format("what answers on '{}' does not speak HTTP: {}", path, failed.message())};
}

}  // namespace

result<http_response> unix_http_call(const std::string& socket_path, const http_request& request,
                                     std::chrono::milliseconds patience) {
    const auto capped = std::min<std::int64_t>(patience.count(), std::numeric_limits<int>::max());
    TRY_ASSIGN(const int fd, connect_unix(socket_path, static_cast<int>(std::min<std::int64_t>(capped, 5000))));
    asio::io_context io{1};
    beast::basic_stream<asio::local::stream_protocol> stream(io);
    error_code failed;
    stream.socket().assign(asio::local::stream_protocol(), fd, failed);

    http::request<http::string_body> message;
    message.method_string(request.method);
    message.target(request.target);
    message.version(11);
    message.set(http::field::host, "weftd");
    message.set(http::field::accept, "application/json");
    if (!request.body.empty()) message.set(http::field::content_type, "application/json");
    message.keep_alive(false);
    message.body() = request.body;
    message.prepare_payload();

    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(answer_max);
    stream.expires_after(patience);
    http::async_write(stream, message, [&](error_code write_failed, std::size_t) {
        // A server that refuses a request early answers and stops reading: its answer counts, not our broken pipe.
        if (write_failed && write_failed != asio::error::broken_pipe) {
            failed = write_failed;
            return;
        }
        http::async_read(stream, buffer, parser, [&](error_code read_failed, std::size_t) { failed = read_failed; });
    });
    io.run();
    if (failed) return explain(failed, socket_path, patience);
    auto answer = parser.release();
    http_response response;
    response.status = answer.result_int();
    response.content_type = std::string(answer[http::field::content_type]);
    response.body = std::move(answer.body());
    return response;
}

}  // namespace weft
