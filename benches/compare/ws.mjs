// An echo over node's ws.

import { WebSocketServer } from "ws";

const port = Number(process.argv[2] ?? 3900);
const server = new WebSocketServer({ port, host: "127.0.0.1", backlog: 4096, perMessageDeflate: false });
server.on("connection", (socket) => {
  socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
  socket.on("error", () => {});
});
