"""Answer every connection with the addresses of both ends: the near one is that of the server that the client asked."""

import socket

with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
    listener.bind(("0.0.0.0", 8080))
    listener.listen()
    while True:
        connection, client = listener.accept()
        with connection:
            connection.recv(4096)
            server = connection.getsockname()
            text = f"I answer as {server[0]}:{server[1]} for {client[0]}\n".encode()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
