// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/threads.hpp"

#include <pthread.h>

#include <csignal>
#include <utility>

namespace weft::io {

std::thread start_thread(std::string name, std::function<void()> body) {
    // A thread inherits the mask of its creator: blocked here, so that no signal can arrive before it blocks them
    // itself.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread made([name = std::move(name), body = std::move(body)] {
        (void)pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
        body();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return made;
}

}  // namespace weft::io
