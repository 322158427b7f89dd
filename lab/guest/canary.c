/* canary: one member of a chain of VMs whose durable records tell whether a recovery point was consistent across the VMs.
 *
 * The head of the chain makes record 1, 2, 3 ... Every member first has the next one make the record durable, then appends it to its own
 * file, fsyncs, and only then acknowledges. So at any moment   head.last <= middle.last <= tail.last,   each at most 1 apart.
 * A member that already has a record acknowledges it without appending again; one that would have to skip a number refuses:
 * neither duplicates nor gaps can come from a restart, in whatever order the members come back.
 *
 * A record is 64 bytes of text:  NUMBER ROLE BOOT WRITTEN_MS MADE_US CRC32\n   (MADE_US comes from the head and is the same in all members).
 * Between members, one line each way: "PUT number made_us" -> "OK number made_us" or "GAP last".
 * A process of its own answers HTTP from shared memory, so that a member with frozen filesystems still tells what it has durable.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 64, CHECKED = RECORD - 9, LINE = 80, RETRY_MS = 250, BROKEN_RETRY_MS = 1000, MIB = 1 << 20 };
enum state { STARTING, OK, WAITING, BROKEN };
static const char *const STATES[] = {"starting", "ok", "waiting", "broken"};
typedef unsigned long long ull;

/* What the writer shares with the process that answers HTTP; `found` is what was durable when it started. */
struct status {
    _Atomic uint64_t durable, found, written_ms, boot, torn;
    _Atomic int state;
};

static struct status *status;
static const char *role, *records_path;
static int records_fd;
static off_t records_end;
static struct sockaddr_in next_member;
static bool has_next;

static void die(const char *what) {
    fprintf(stderr, "canary: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static void pause_ms(unsigned ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000l};
    nanosleep(&t, NULL);
}

static uint32_t crc32(const char *bytes, int length) {
    uint32_t crc = ~0u;
    while (length--) {
        crc ^= (unsigned char)*bytes++;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xEDB88320u & -(crc & 1));
    }
    return ~crc;
}

/* ---- the records ---- */

struct record { uint64_t number, boot, made_us; };

static bool read_record(off_t offset, struct record *out) {
    char text[RECORD + 1] = {0};
    ull number, boot, made;
    unsigned crc;
    if (pread(records_fd, text, RECORD, offset) != RECORD || text[RECORD - 1] != '\n') return false;
    if (sscanf(text, "%llu %*s %llu %*u %llu %8x", &number, &boot, &made, &crc) != 4 || crc32(text, CHECKED) != crc) return false;
    *out = (struct record){number, boot, made};
    return true;
}

/* Opens the file and cuts what follows the last whole record: a crash in the middle of an append leaves such a tail. */
static void recover(void) {
    struct stat file;
    struct record last = {0};
    if ((records_fd = open(records_path, O_RDWR | O_CREAT, 0644)) < 0 || fstat(records_fd, &file)) die(records_path);
    off_t count = file.st_size / RECORD;
    if (file.st_size % RECORD) status->torn++;
    while (count > 0 && !read_record((count - 1) * RECORD, &last)) {
        status->torn++;
        count--;
    }
    records_end = count * RECORD;
    if (ftruncate(records_fd, records_end) || fsync(records_fd)) die(records_path);
    status->durable = status->found = last.number;
    status->boot = last.boot + 1;
}

static void append(uint64_t number, uint64_t made_us) {
    char text[RECORD + 1];
    uint64_t written_ms = now_us() / 1000;
    snprintf(text, sizeof text, "%012llu %-5.5s %04llu %013llu %016llu ", (ull)number, role, (ull)status->boot % 10000, (ull)written_ms, (ull)made_us);
    snprintf(text + CHECKED, sizeof text - CHECKED, "%08x\n", crc32(text, CHECKED));
    /* After a failed write or fsync nobody knows what is on the disk: end here, the next start reads it. */
    if (pwrite(records_fd, text, RECORD, records_end) != RECORD || fsync(records_fd)) die(records_path);
    records_end += RECORD;
    status->written_ms = written_ms;
    status->durable = number;
}

/* ---- lines between members ---- */

static void detect_dead_peer(int fd) {
    /* A frozen peer still answers keepalives, a dead one does not: so a freeze of any length is waited out and a crash is not. */
    int on = 1, idle = 2, interval = 1, probes = 3, timeout_ms = 5000;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static bool send_line(int fd, const char *format, ...) {
    char line[LINE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    return send(fd, line, length, MSG_NOSIGNAL) == length;
}

static bool read_line(int fd, char *line) {
    for (int length = 0; length < LINE - 1; length++) {
        if (recv(fd, line + length, 1, 0) != 1) return false;
        if (line[length] == '\n') {
            line[length] = 0;
            return true;
        }
    }
    return false;
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 64)) die("listen");
    return fd;
}

static int connect_next(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    detect_dead_peer(fd);
    if (!connect(fd, (void *)&next_member, sizeof next_member)) return fd;
    close(fd);
    return -1;
}

/* Returns when the next member has the record durable, however long that takes; the result is the MADE_US that it has durable. */
static uint64_t make_durable_at_next(uint64_t number, uint64_t made_us) {
    static int fd = -1;
    for (;;) {
        char answer[LINE];
        ull acknowledged, made;
        if (fd < 0) fd = connect_next();
        bool answered = fd >= 0 && send_line(fd, "PUT %llu %llu\n", (ull)number, (ull)made_us) && read_line(fd, answer);
        if (answered && sscanf(answer, "OK %llu %llu", &acknowledged, &made) == 2 && acknowledged == number) {
            status->state = OK;
            return made;
        }
        if (answered && status->state != BROKEN) fprintf(stderr, "canary: next member refuses record %llu: %s\n", (ull)number, answer);
        status->state = answered ? BROKEN : WAITING;
        if (!answered && fd >= 0) {
            close(fd);
            fd = -1;
        }
        pause_ms(answered ? BROKEN_RETRY_MS : RETRY_MS);
    }
}

/* Makes the record durable here and at all members behind; the result is the MADE_US that is durable. */
static uint64_t make_durable(uint64_t number, uint64_t made_us) {
    if (has_next) made_us = make_durable_at_next(number, made_us);
    append(number, made_us);
    status->state = OK;
    return made_us;
}

static bool answer_peer(int client) {
    char line[LINE];
    ull number, made;
    struct record mine;
    if (!read_line(client, line) || sscanf(line, "PUT %llu %llu", &number, &made) != 2) return false;
    if (number == status->durable + 1) return send_line(client, "OK %llu %llu\n", number, (ull)make_durable(number, made));
    if (number >= 1 && number <= status->durable && read_record((number - 1) * RECORD, &mine) && mine.number == number)
        return send_line(client, "OK %llu %llu\n", number, (ull)mine.made_us);
    return send_line(client, "GAP %llu\n", (ull)status->durable);
}

/* One client at a time; the newest wins, because the one before it may be dead without having said so. */
static void serve_peer(int listener) {
    struct timeval half_a_line = {2, 0};
    for (int client = -1;;) {
        struct pollfd ready[2] = {{.fd = listener, .events = POLLIN}, {.fd = client, .events = POLLIN}};
        if (poll(ready, 2, -1) < 0) continue;
        if (ready[0].revents) {
            if (client >= 0) close(client);
            client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            if (client < 0) continue;
            detect_dead_peer(client);
            setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &half_a_line, sizeof half_a_line);
        } else if (ready[1].revents && !answer_peer(client)) {
            close(client);
            client = -1;
        }
    }
}

static void make_records(unsigned period_ms) {
    for (;;) {
        make_durable(status->durable + 1, now_us());
        pause_ms(period_ms);
    }
}

/* ---- HTTP ---- */

static void answer_http(int client, const char *code, const char *json) {
    char answer[1024];
    int length = snprintf(answer, sizeof answer, "HTTP/1.0 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                          code, strlen(json), json);
    send(client, answer, length, MSG_NOSIGNAL);
    shutdown(client, SHUT_WR);
}

static void answer_status(int client) {
    char json[512];
    snprintf(json, sizeof json, "{\"role\": \"%s\", \"durable\": %llu, \"found\": %llu, \"boot\": %llu, \"torn\": %llu, \"ms\": %llu, \"state\": \"%s\"}\n", role,
             (ull)status->durable, (ull)status->found, (ull)status->boot, (ull)status->torn, (ull)status->written_ms, STATES[status->state]);
    answer_http(client, "200 OK", json);
}

/* Writes MIB of pseudo-random data beside the records, so that a backup of the volume has something to carry. */
static bool fill(const char *path, unsigned mib, uint64_t seed) {
    static uint64_t block[MIB / 8];
    uint64_t x = seed * 0x9E3779B97F4A7C15ull | 1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    bool good = fd >= 0;
    for (unsigned i = 0; good && i < mib; i++) {
        for (int j = 0; j < MIB / 8; j++) {
            x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
            block[j] = x * 0x2545F4914F6CDD1Dull;
        }
        good = write(fd, block, MIB) == MIB;
    }
    return good && !fsync(fd) && !close(fd);
}

static void answer_fill(int client, unsigned mib, uint64_t seed) {
    char path[256], folder[200], json[512];
    uint64_t start = now_us();
    snprintf(folder, sizeof folder, "%s", records_path);
    snprintf(path, sizeof path, "%s/fill-%llu", dirname(folder), (ull)seed);
    if (!fill(path, mib, seed)) {
        snprintf(json, sizeof json, "{\"error\": \"%s: %s\"}\n", path, strerror(errno));
        return answer_http(client, "507 Insufficient Storage", json);
    }
    snprintf(json, sizeof json, "{\"path\": \"%s\", \"mib\": %u, \"ms\": %llu}\n", path, mib, (ull)(now_us() - start) / 1000);
    answer_http(client, "200 OK", json);
}

static void serve_http(int listener, pid_t writer) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != writer) _exit(1); /* it died before we asked to die with it */
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0) continue;
        struct timeval patience = {1, 0};
        setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        char request[1024] = {0};
        unsigned mib;
        ull seed = 1;
        if (recv(client, request, sizeof request - 1, 0) > 0) {
            if (sscanf(request, "GET /fill?mib=%u&seed=%llu", &mib, &seed) < 1) answer_status(client);
            else if (fork() == 0) { /* a process of its own: it may take long, or be frozen */
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                answer_fill(client, mib, seed);
                _exit(0);
            }
        }
        close(client);
    }
}

static void start_http(int port) {
    int listener = listen_on(port);
    pid_t writer = getpid(), child = fork();
    if (child < 0) die("fork");
    if (child == 0) serve_http(listener, writer);
    close(listener);
}

static void end_with_child(int signal_number) {
    (void)signal_number;
    _exit(1);
}

static void parse_next(char *text) {
    char *colon = strchr(text, ':');
    if (!colon) errno = EINVAL, die("--next wants ADDRESS:PORT");
    *colon = 0;
    next_member = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    if (inet_pton(AF_INET, text, &next_member.sin_addr) != 1) errno = EINVAL, die("--next wants an IPv4 address");
    has_next = true;
}

int main(int count, char **arguments) {
    static const struct option known[] = {{"role", 1, 0, 'r'},  {"records", 1, 0, 'f'}, {"http", 1, 0, 'h'}, {"peer", 1, 0, 'p'},
                                          {"next", 1, 0, 'n'}, {"period-ms", 1, 0, 'm'}, {0}};
    int http = 0, peer = 0, period_ms = 0;
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        if (option == 'r') role = optarg;
        else if (option == 'f') records_path = optarg;
        else if (option == 'h') http = atoi(optarg);
        else if (option == 'p') peer = atoi(optarg);
        else if (option == 'n') parse_next(optarg);
        else if (option == 'm') period_ms = atoi(optarg);
        else return 2;
    }
    if (!role || !records_path || !http || !peer == !period_ms) {
        fprintf(stderr, "usage: canary --role ROLE --records FILE --http PORT [--next ADDRESS:PORT] (--peer PORT | --period-ms MS)\n"
                        "--peer: other members ask this one; --period-ms: this one is the head and makes the records\n");
        return 2;
    }
    status = mmap(NULL, sizeof *status, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (status == MAP_FAILED) die("mmap");
    recover();
    signal(SIGCHLD, end_with_child);
    start_http(http);
    fprintf(stderr, "canary: %s goes on after record %llu, start %llu, %llu torn\n", role, (ull)status->durable, (ull)status->boot, (ull)status->torn);
    if (peer) serve_peer(listen_on(peer));
    else make_records(period_ms);
}
