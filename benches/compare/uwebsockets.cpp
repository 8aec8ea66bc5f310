// An echo over uWebSockets on its own epoll loop, in the settings of its own example without compression.

#include "App.h"

#include <cstdlib>

int main(int count, char **arguments) {
    struct Nothing {};
    int port = count > 1 ? std::atoi(arguments[1]) : 3900;
    uWS::App()
        .ws<Nothing>("/*",
                     {.compression = uWS::DISABLED,
                      .idleTimeout = 120,
                      .message = [](auto *ws, std::string_view message, uWS::OpCode opcode) { ws->send(message, opcode); }})
        .listen(port, [](auto *socket) {
            if (!socket) {
                std::exit(1);
            }
        })
        .run();
}
