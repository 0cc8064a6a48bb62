/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the guest of test_virtio.py: "listen PORT" echoes what one client sends; "connect PORT" sends standard input to
 * the host's port and prints the answer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static void copy(int from, int to)
{
	char data[65536];
	ssize_t n;

	while ((n = read(from, data, sizeof(data))) > 0)
		for (ssize_t done = 0, w; done < n; done += w) {
			w = write(to, data + done, (size_t)(n - done));
			if (w < 0) {
				perror("write");
				exit(1);
			}
		}
	if (n < 0) {
		perror("read");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int s = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc != 3 || s < 0)
		return 2;
	address.svm_port = (unsigned)atoi(argv[2]);
	if (!strcmp(argv[1], "connect")) {
		address.svm_cid = VMADDR_CID_HOST;
		if (connect(s, (struct sockaddr *)&address, sizeof(address)) < 0) {
			perror("connect");
			return 1;
		}
		copy(STDIN_FILENO, s);
		shutdown(s, SHUT_WR);
		copy(s, STDOUT_FILENO);
		return 0;
	}
	address.svm_cid = VMADDR_CID_ANY;
	if (bind(s, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(s, 1) < 0)
		return 1;
	puts("listening");
	fflush(stdout);
	s = accept(s, NULL, NULL);
	copy(s, s);
	return 0;
}
