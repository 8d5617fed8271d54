// SPDX-License-Identifier: Apache-2.0
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"  // Asio's fences; it has locks as well, which the sanitizer does see
#endif
#include "orchestrator/io/unix_http.hpp"

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <list>
#include <optional>
#include <thread>
#include <utility>

#include "orchestrator/io/elastic_pool.hpp"
#include "orchestrator/io/unix_listen.hpp"

namespace weft {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using local_stream = beast::basic_stream<asio::local::stream_protocol>;

namespace {

// After a refusal the rest of the request is read and thrown away, so that a client that is still sending gets to read
// the answer instead of a broken pipe; but not for ever.
constexpr std::chrono::seconds drain_time{2};
constexpr std::size_t drain_max = 256 * 1024 * 1024;
// With no descriptor left accept(2) fails at once while the listener stays readable. Nobody tells us when some other
// part of the process closes one, so look again after this long.
constexpr std::chrono::milliseconds accept_pause{100};

class session;

}  // namespace

struct unix_http_server::impl {
    impl(unix_http_options o, http_handler h, http_refusal r, listening_socket s)
        : options(std::move(o)),
          handler(std::move(h)),
          refusal(std::move(r)),
          socket(s),
          listener(io, s.fd),
          pause(io) {}

    void arm_accept();
    void accept_ready();
    bool room_for_one_more();
    void pause_accept();
    void close_all_quiet();
    void release(std::list<std::shared_ptr<session>>::iterator where);
    void became_idle();

    unix_http_options options;
    http_handler handler;
    http_refusal refusal;
    listening_socket socket;
    asio::io_context io{1};
    asio::executor_work_guard<asio::io_context::executor_type> busy{io.get_executor()};
    asio::posix::stream_descriptor listener;
    asio::steady_timer pause;
    elastic_pool pool;
    std::list<std::shared_ptr<session>> sessions;  // only touched by the io thread, like all below
    bool blocked = false;  // at the limit, nobody idle: accept again when a connection ends or becomes idle
    bool stopping = false;
    std::thread thread;
};

namespace {

/// One connection. Lives in the server's list and in its own pending operations; only touched by the io thread, except
/// for the handler's call.
class session : public std::enable_shared_from_this<session> {
public:
    using server = unix_http_server::impl;
    enum class phase { idle, reading, handling, writing, draining, closed };

    session(server& s, int fd) : server_(s), stream_(s.io) {
        stream_.socket().assign(asio::local::stream_protocol(), fd);
    }

    void start(std::list<std::shared_ptr<session>>::iterator where) {
        where_ = where;
        next_request();
    }

    [[nodiscard]] phase now() const { return phase_; }
    [[nodiscard]] std::chrono::steady_clock::time_point idle_since() const { return idle_since_; }

    void close() {
        if (phase_ == phase::closed) return;
        phase_ = phase::closed;
        error_code ignored;
        stream_.socket().close(ignored);
        const auto self = shared_from_this();  // the list may hold the last reference
        server_.release(where_);
    }

private:
    /// For every completion: an operation may still succeed after somebody else closed the connection.
    bool over(error_code failed) {
        if (failed) close();
        return phase_ == phase::closed;
    }

    void tell(std::function<void(bool)> who, bool delivered) {
        if (!who) return;
        auto job = [who, delivered] { who(delivered); };
        if (!server_.pool.post(job)) job();  // late is better than never
    }

    void next_request() {
        parser_.emplace();
        parser_->header_limit(server_.options.header_max);
        parser_->body_limit(server_.options.body_max);
        if (server_.stopping) return close();
        if (buffer_.size() > 0) return read_header();
        phase_ = phase::idle;
        idle_since_ = std::chrono::steady_clock::now();
        stream_.expires_after(server_.options.idle_timeout);
        stream_.async_read_some(buffer_.prepare(4096), [self = shared_from_this()](error_code failed, std::size_t got) {
            if (self->over(failed)) return;
            self->buffer_.commit(got);
            self->read_header();
        });
        server_.became_idle();
    }

    void read_header() {
        phase_ = phase::reading;
        stream_.expires_after(server_.options.transfer_timeout);
        http::async_read_header(stream_, buffer_, *parser_,
                                [self = shared_from_this()](error_code failed, std::size_t) {
                                    if (failed) return self->refuse(failed);
                                    if (self->over(failed)) return;
                                    if (beast::iequals(self->parser_->get()[http::field::expect], "100-continue"))
                                        return self->say_continue();
                                    self->read_body();
                                });
    }

    void say_continue() {
        static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        asio::async_write(stream_, asio::buffer(go_on), [self = shared_from_this()](error_code failed, std::size_t) {
            if (self->over(failed)) return;
            self->read_body();
        });
    }

    void read_body() {
        http::async_read(stream_, buffer_, *parser_, [self = shared_from_this()](error_code failed, std::size_t) {
            if (failed) return self->refuse(failed);
            if (self->over(failed)) return;
            self->handle();
        });
    }

    void handle() {
        phase_ = phase::handling;
        stream_.expires_never();
        auto message = parser_->release();
        keep_alive_ = message.keep_alive();
        head_ = message.method() == http::verb::head;
        http_request request{std::string(message.method_string()), std::string(message.target()),
                             std::move(message.body())};
        auto job = [self = shared_from_this(), request = std::move(request)] {
            http_response response = self->call_handler(request);
            asio::post(self->server_.io,
                       [self, response = std::move(response)]() mutable { self->answer(std::move(response)); });
        };
        if (!server_.pool.post(std::move(job))) close();  // no thread to be had: a network error for the client
    }

    http_response call_handler(const http_request& request) {
        try {
            return server_.handler(request);
        } catch (...) {
            return http_response::dropped();  // see http_handler
        }
    }

    void answer(http_response response) {
        if (response.drop) return close();
        const bool keep = keep_alive_ && !head_ && !server_.stopping;
        send(std::move(response), keep, [](session& self, bool kept) { kept ? self.next_request() : self.close(); });
    }

    void refuse(error_code why) {
        if (phase_ == phase::closed) return;
        unsigned status = 400;
        std::string text = "this is not an HTTP request: " + why.message();
        if (why == http::error::body_limit) {
            status = 413;
            text = fmt::format("the request's body is larger than the {} bytes that are accepted",
                               server_.options.body_max);
        } else if (why == http::error::header_limit || why == http::error::buffer_overflow) {
            status = 431;
            text = fmt::format("the request's headers are larger than the {} bytes that are accepted",
                               server_.options.header_max);
        } else if (why.category() != http::make_error_code(http::error::bad_method).category() ||
                   why == http::error::end_of_stream || why == http::error::partial_message) {
            return close();  // the peer went away or is too slow: nobody to tell
        }
        send(server_.refusal(status, text), false, [](session& self, bool) { self.drain(); });
    }

    void send(http_response response, bool keep, void (*then)(session&, bool)) {
        phase_ = phase::writing;
        out_.emplace();
        out_->result(response.status);
        out_->version(11);
        out_->set(http::field::content_type, response.content_type);
        out_->keep_alive(keep);
        out_->body() = std::move(response.body);
        on_delivery_ = std::move(response.on_delivery);
        out_->prepare_payload();
        if (head_) out_->body().clear();
        stream_.expires_after(server_.options.transfer_timeout);
        http::async_write(stream_, *out_, [self = shared_from_this(), keep, then](error_code failed, std::size_t) {
            self->out_.reset();
            self->tell(std::exchange(self->on_delivery_, {}), !failed);
            if (self->over(failed)) return;
            then(*self, keep);
        });
    }

    void drain() {
        if (phase_ != phase::draining) {
            phase_ = phase::draining;
            error_code ignored;
            stream_.socket().shutdown(asio::local::stream_protocol::socket::shutdown_send, ignored);
            stream_.expires_after(drain_time);
        }
        if (server_.stopping || drained_ > drain_max) return close();
        buffer_.clear();
        stream_.async_read_some(buffer_.prepare(64 * 1024),
                                [self = shared_from_this()](error_code failed, std::size_t got) {
                                    if (self->over(failed)) return;
                                    self->drained_ += got;
                                    self->drain();
                                });
    }

    server& server_;
    local_stream stream_;
    beast::flat_buffer buffer_{256 * 1024};
    std::optional<http::request_parser<http::string_body>> parser_;
    std::optional<http::response<http::string_body>> out_;
    std::function<void(bool)> on_delivery_;  // of the answer that is being written
    std::list<std::shared_ptr<session>>::iterator where_;
    std::chrono::steady_clock::time_point idle_since_;
    phase phase_ = phase::idle;
    bool keep_alive_ = false;
    bool head_ = false;
    std::size_t drained_ = 0;
};

}  // namespace

void unix_http_server::impl::arm_accept() {
    if (stopping) return;
    listener.async_wait(asio::posix::stream_descriptor::wait_read, [this](error_code failed) {
        if (!failed) accept_ready();
    });
}

void unix_http_server::impl::pause_accept() {
    pause.expires_after(accept_pause);
    pause.async_wait([this](error_code cancelled) {
        if (!cancelled) arm_accept();
    });
}

/// Closes the connection that is idle for longest if the limit is reached. False: all are at work.
bool unix_http_server::impl::room_for_one_more() {
    if (sessions.size() < options.connections_max) return true;
    std::shared_ptr<session> oldest;
    for (const auto& one : sessions)
        if (one->now() == session::phase::idle && (!oldest || one->idle_since() < oldest->idle_since())) oldest = one;
    if (!oldest) return false;
    oldest->close();
    return true;
}

void unix_http_server::impl::accept_ready() {
    for (;;) {
        if (stopping) return;
        pollfd waiting{listener.native_handle(), POLLIN, 0};
        if (::poll(&waiting, 1, 0) == 0) return arm_accept();
        if (!room_for_one_more()) {
            blocked = true;
            return;
        }
        const int fd = ::accept4(listener.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED) continue;
            if (errno == EAGAIN) return arm_accept();
            return pause_accept();
        }
        const auto where = sessions.insert(sessions.end(), std::make_shared<session>(*this, fd));
        (*where)->start(where);
    }
}

void unix_http_server::impl::became_idle() {
    if (!blocked || stopping) return;
    blocked = false;
    asio::post(io, [this] { accept_ready(); });
}

void unix_http_server::impl::release(std::list<std::shared_ptr<session>>::iterator where) {
    sessions.erase(where);
    became_idle();
    if (stopping && sessions.empty()) busy.reset();
}

void unix_http_server::impl::close_all_quiet() {
    stopping = true;
    // Before the close: while it is open its inode number cannot be used again.
    if (options.inherited < 0) unlink_if_ours(options.path, socket);
    error_code ignored;
    listener.close(ignored);
    pause.cancel();
    auto all = sessions;
    for (const auto& one : all)
        if (one->now() != session::phase::handling && one->now() != session::phase::writing) one->close();
    if (sessions.empty()) busy.reset();
}

unix_http_server::unix_http_server(std::unique_ptr<impl> self) : impl_(std::move(self)) {}

result<std::unique_ptr<unix_http_server>> unix_http_server::listen(unix_http_options options, http_handler handler,
                                                                   http_refusal refusal) {
    listening_socket bound{options.inherited, 0, 0};
    if (options.inherited < 0) {
        TRY_ASSIGN(bound, listen_unix(options.path, options.mode, options.group, options.owner_name));
    }
    const std::string path = options.path;
    const bool inherited = options.inherited >= 0;
    try {
        auto self = std::make_unique<impl>(std::move(options), std::move(handler), std::move(refusal), bound);
        self->arm_accept();
        self->thread = std::thread([raw = self.get()] { raw->io.run(); });
        return std::unique_ptr<unix_http_server>(new unix_http_server(std::move(self)));
    } catch (const std::system_error& failed) {
        if (!inherited) unlink_if_ours(path, bound);
        return error{errc::io_failed, failed.code().value(),
                     fmt::format("start the server of socket '{}': {}", path, failed.what())};
    }
}

void unix_http_server::stop() {
    if (!impl_->thread.joinable()) return;
    asio::post(impl_->io, [self = impl_.get()] { self->close_all_quiet(); });
    impl_->thread.join();
    impl_->pool.finish();
}

unix_http_server::~unix_http_server() {
    stop();
}

}  // namespace weft
