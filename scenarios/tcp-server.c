/*
 * The classic TCP server: socket, bind, listen, accept; then it answers one line per client, in upper case.
 *
 *     tcp-server PORT CLIENTS
 *
 * It serves CLIENTS clients, one after the other, and ends. Every call is checked: a call that fails returns -1
 * and leaves the reason in errno, which perror(3) turns into words.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(EXIT_FAILURE);
}

/* write(2) may take less than it was given: go on until everything is in the kernel's send buffer. */
static void write_all(int fd, const char *data, size_t length)
{
    while (length > 0) {
        ssize_t n = write(fd, data, length);
        if (n == -1)
            fail("write");
        data += n;
        length -= (size_t)n;
    }
}

/* A stream has no lines: read until there is a newline, the client's end, or no more room. */
static size_t read_line(int fd, char *line, size_t room)
{
    size_t length = 0;
    while (length < room) {
        ssize_t n = read(fd, line + length, room - length);
        if (n == -1)
            fail("read");
        if (n == 0)
            break;
        length += (size_t)n;
        if (line[length - 1] == '\n')
            break;
    }
    return length;
}

static void serve(int conn)
{
    char line[1024];
    size_t length = read_line(conn, line, sizeof line);

    for (size_t i = 0; i < length; i++)
        line[i] = (char)toupper((unsigned char)line[i]);
    write_all(conn, line, length);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: tcp-server PORT CLIENTS\n");
        return 2;
    }

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener == -1)
        fail("socket");

    /* Otherwise a server that is started again finds its port in TIME_WAIT: bind would give EADDRINUSE. */
    int yes = 1;
    if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == -1)
        fail("setsockopt");

    /* The local end: every address of this host, and this port. Both are in network byte order. */
    struct sockaddr_in local;
    memset(&local, 0, sizeof local);
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_ANY);
    local.sin_port = htons((unsigned short)atoi(argv[1]));
    if (bind(listener, (struct sockaddr *)&local, sizeof local) == -1)
        fail("bind");

    if (listen(listener, 5) == -1)
        fail("listen");

    for (int clients = atoi(argv[2]); clients > 0; clients--) {
        /* Value and result: in goes the room for the address, out comes its length. */
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        int conn = accept(listener, (struct sockaddr *)&peer, &length);
        if (conn == -1)
            fail("accept");

        char address[INET_ADDRSTRLEN];
        inet_ntop(AF_INET, &peer.sin_addr, address, sizeof address);
        printf("accepted %s, addrlen %u\n", address, (unsigned)length);
        fflush(stdout);

        serve(conn);
        if (close(conn) == -1)
            fail("close");
    }
    return EXIT_SUCCESS;
}
