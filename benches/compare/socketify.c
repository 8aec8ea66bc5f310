/* An echo over uWebSockets on libuv: the library inside PyPI's socketify, called from C, so that no Python is measured.
 * The declarations are those of the C interface that socketify/native.py gives to its foreign function interface. */

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct uws_app_s uws_app_t;
typedef struct uws_websocket_s uws_websocket_t;
struct us_listen_socket_t;

struct us_socket_context_options_t {
    const char *key_file_name, *cert_file_name, *passphrase, *dh_params_file_name, *ca_file_name, *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};

typedef struct {
    int port;
    const char *host;
    int options;
} uws_app_listen_config_t;

typedef void (*message_handler)(uws_websocket_t *, const char *, size_t, int opcode, void *);

typedef struct {
    int compression;
    unsigned int max_payload_length;
    unsigned short idle_timeout;
    unsigned int max_backpressure;
    bool close_on_backpressure_limit, reset_idle_timeout_on_send, send_pings_automatically;
    unsigned short max_lifetime;
    void *upgrade, *open;
    message_handler message;
    void *drain, *ping, *pong, *close, *subscription;
} uws_socket_behavior_t;

typedef void (*listen_handler)(struct us_listen_socket_t *, uws_app_listen_config_t, void *);

void *socketify_create_loop(void);
void *socketify_get_native_loop(void *loop);
int socketify_loop_run(void *loop, int mode);
void *uws_get_loop_with_native(void *native_loop);
uws_app_t *uws_create_app(int ssl, struct us_socket_context_options_t options);
void uws_ws(int ssl, uws_app_t *app, const char *pattern, uws_socket_behavior_t behavior, void *user_data);
void uws_app_listen(int ssl, uws_app_t *app, int port, listen_handler handler, void *user_data);
int uws_ws_send(int ssl, uws_websocket_t *ws, const char *message, size_t length, int opcode);

static void echo(uws_websocket_t *ws, const char *message, size_t length, int opcode, void *user_data) {
    (void)user_data;
    uws_ws_send(0, ws, message, length, opcode);
}

static void listening(struct us_listen_socket_t *socket, uws_app_listen_config_t config, void *user_data) {
    (void)config;
    (void)user_data;
    if (!socket) {
        exit(1);
    }
}

int main(int count, char **arguments) {
    void *loop = socketify_create_loop();
    uws_get_loop_with_native(socketify_get_native_loop(loop));
    struct us_socket_context_options_t options;
    memset(&options, 0, sizeof options);
    uws_app_t *app = uws_create_app(0, options);
    uws_socket_behavior_t behavior;
    memset(&behavior, 0, sizeof behavior);
    behavior.max_payload_length = 16 * 1024;
    behavior.idle_timeout = 120;
    behavior.max_backpressure = 64 * 1024;
    behavior.send_pings_automatically = true;
    behavior.message = echo;
    uws_ws(0, app, "/*", behavior, NULL);
    uws_app_listen(0, app, count > 1 ? atoi(arguments[1]) : 3900, listening, NULL);
    return socketify_loop_run(loop, 0);
}
