/*
 * The classic TCP client: socket, connect; then it sends one line and prints the answer.
 *
 *     tcp-client ADDRESS PORT TEXT
 *
 * ADDRESS is an IPv4 address like 192.0.2.7. The exit status is 1 when a call fails.
 */
#include <arpa/inet.h>
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

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: tcp-client ADDRESS PORT TEXT\n");
        return 2;
    }

    /* The same structure as for bind in the server, but it names the other end. */
    struct sockaddr_in server;
    memset(&server, 0, sizeof server);
    server.sin_family = AF_INET;
    server.sin_port = htons((unsigned short)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) {
        fprintf(stderr, "tcp-client: %s is not an IPv4 address\n", argv[1]);
        return 2;
    }

    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd == -1)
        fail("socket");

    /* No bind: the kernel chooses the local address (by its route to the server) and a free port. */
    if (connect(fd, (struct sockaddr *)&server, sizeof server) == -1)
        fail("connect");

    /* dprintf writes to the descriptor until all is written. */
    if (dprintf(fd, "%s\n", argv[3]) < 0)
        fail("write");

    /* An answer may arrive in pieces; 0 is the end: the server has closed. */
    char answer[1024];
    ssize_t n;
    while ((n = read(fd, answer, sizeof answer)) > 0)
        fwrite(answer, 1, (size_t)n, stdout);
    if (n == -1)
        fail("read");

    if (close(fd) == -1)
        fail("close");
    return EXIT_SUCCESS;
}
