// An echo over Bun's own WebSocket server.

Bun.serve({
  port: Number(process.argv[2] ?? 3900),
  hostname: "127.0.0.1",
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response("a WebSocket is asked for", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    message(socket, message) {
      socket.send(message);
    },
  },
});
