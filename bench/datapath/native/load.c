// A client on one core: COUNT connections, each with one request at a time, for some seconds.
//
//   load HOST PORT COUNT SECONDS BODY_BYTES [INTERVAL_US]
//
// Without INTERVAL_US: whole answers, back to back; every prompt is different from its first byte.
// With it: one stream on each connection, an event every INTERVAL_US; counted after a second of
// warming up. Prints one JSON object; times in microseconds.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNS 60000
#define IN_BYTES 65536
#define HEAD_BYTES 8192

typedef enum { HEAD, SIZED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER } State;

typedef struct {
  int fd;
  State state;
  char head[HEAD_BYTES];
  size_t head_len, left, size, sent;
  bool chunked, ok, failed;
  int matched;            // of "data: ", across reads
  uint64_t begun, last;
} Conn;

static Conn *conns;
static int num_conns, epoll_fd;
static char *request;
static size_t request_len, mark_at;
static struct sockaddr_in address;
static bool streams, counting;
static uint64_t num_done, num_errors, num_events, num_reads, serial;
static uint32_t *times;   // microseconds: answers, or gaps between events
static size_t num_times, max_times = 20000000;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(uint64_t ns) {
  if (num_times < max_times) times[num_times++] = (uint32_t)(ns / 1000);
}

static void watch(Conn *c, uint32_t events, int op) {
  struct epoll_event e = {.events = events, .data.ptr = c};
  epoll_ctl(epoll_fd, op, c->fd, &e);
}

static void write_more(Conn *c) {
  while (c->sent < request_len) {
    ssize_t n = send(c->fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL);
    if (n < 0) {
      // Another connection's mark would be sent by now: give this request a mark of its own.
      watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
      return;
    }
    c->sent += (size_t)n;
  }
}

static void begin(Conn *c) {
  static const char hex[] = "0123456789abcdef";
  uint64_t mark = (++serial) * 0x9E3779B97F4A7C15u;
  for (int i = 0; i < 16; i++) request[mark_at + (size_t)i] = hex[(mark >> (60 - 4 * i)) & 15];
  c->state = HEAD;
  c->head_len = c->sent = 0;
  c->matched = 0;
  c->begun = now_ns();
  c->last = 0;
  write_more(c);
}

static void open_conn(Conn *c) {
  int one = 1;
  memset(c, 0, sizeof *c);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (void *)&address, sizeof address)) {
    perror("connect");
    exit(1);
  }
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  watch(c, EPOLLIN, EPOLL_CTL_ADD);
  begin(c);
}

static void done(Conn *c) {
  if (!c->ok) num_errors++;
  else if (!streams) {
    num_done++;
    note(now_ns() - c->begun);
  }
  begin(c);
}

static void count_events(Conn *c, const char *data, size_t len) {
  static const char mark[] = "data: ";
  uint64_t found = 0;
  const char *at = data, *end = data + len;
  if (!c->matched) {
    const char *next;
    while ((next = memmem(at, (size_t)(end - at), mark, 6))) found++, at = next + 6;
    // A mark that is cut by the end of a read is looked at byte by byte.
    at = end - at > 5 ? end - 5 : at;
  }
  for (; at < end; at++) {
    if (*at == mark[c->matched]) {
      if (++c->matched == 6) found++, c->matched = 0;
    } else c->matched = *at == 'd';
  }
  if (!found || !counting) {
    if (found) c->last = now_ns();
    return;
  }
  uint64_t now = now_ns();
  num_events += found;
  num_reads++;
  if (c->last) note(now - c->last);
  c->last = now;
}

static void on_head(Conn *c) {
  c->head[c->head_len] = 0;
  c->ok = !strncmp(c->head + 9, "200", 3);
  char *length = strcasestr(c->head, "\ncontent-length:");
  c->chunked = strcasestr(c->head, "\ntransfer-encoding: chunked") != NULL;
  c->left = length ? (size_t)atol(length + 16) : 0;
  c->state = c->chunked ? CHUNK_SIZE : SIZED;
  c->size = 0;
}

// Feeds one read; calls done() when an answer is complete.
static void feed(Conn *c, const char *data, size_t len) {
  while (len) {
    if (c->state == HEAD) {
      size_t room = HEAD_BYTES - 1 - c->head_len, take = len < room ? len : room;
      memcpy(c->head + c->head_len, data, take);
      char *end = memmem(c->head, c->head_len + take, "\r\n\r\n", 4);
      if (!end) {
        c->head_len += take;
        return;
      }
      size_t used = (size_t)(end + 4 - c->head) - c->head_len;
      c->head_len = (size_t)(end - c->head) + 4;
      data += used, len -= used;
      on_head(c);
      if (!c->chunked && !c->left) done(c);
    } else if (c->state == SIZED || c->state == CHUNK) {
      size_t take = len < c->left ? len : c->left;
      if (streams) count_events(c, data, take);
      data += take, len -= take, c->left -= take;
      if (!c->left) {
        if (c->state == SIZED) done(c);
        else c->state = CHUNK_END;
      }
    } else if (c->state == CHUNK_END) {
      if (*data == '\n') c->state = CHUNK_SIZE, c->size = 0;
      data++, len--;
    } else if (c->state == CHUNK_SIZE) {
      char byte = *data++;
      len--;
      if (byte == '\n') {
        if (c->size) c->state = CHUNK, c->left = c->size;
        else c->state = TRAILER, c->left = 0;
      } else if (byte >= '0' && byte <= '9') c->size = c->size * 16 + (size_t)(byte - '0');
      else if ((byte | 32) >= 'a' && (byte | 32) <= 'f') c->size = c->size * 16 + (size_t)((byte | 32) - 'a' + 10);
    } else {
      if (*data == '\n') {
        data++, len--;
        done(c);
        continue;
      }
      data++, len--;
    }
  }
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static uint32_t quantile(double q) {
  return num_times ? times[(size_t)((double)(num_times - 1) * q)] : 0;
}

int main(int argc, char **argv) {
  if (argc < 6) return fprintf(stderr, "usage: load HOST PORT COUNT SECONDS BODY_BYTES [INTERVAL_US]\n"), 2;
  struct rlimit limit = {65536, 65536};
  setrlimit(RLIMIT_NOFILE, &limit);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)atoi(argv[2]));
  inet_pton(AF_INET, argv[1], &address.sin_addr);
  num_conns = atoi(argv[3]);
  double seconds = atof(argv[4]);
  size_t body_bytes = (size_t)atol(argv[5]);
  streams = argc > 6;
  times = malloc(max_times * sizeof *times);

  char opening[256];
  int opening_len = sprintf(opening,
      "{\"model\":\"m\",\"max_tokens\":%s,\"stream\":%s,\"interval_us\":%s,"
      "\"messages\":[{\"role\":\"user\",\"content\":\"",
      streams ? "100000" : "16", streams ? "true" : "false", streams ? argv[6] : "0");
  static const char closing[] = "\"}]}", filler[] = "the memory of a model is what it may hold ";
  size_t least = (size_t)opening_len + sizeof closing - 1 + 16;
  if (body_bytes < least) body_bytes = least;
  request = malloc(body_bytes + 512);
  request_len = (size_t)sprintf(request,
      "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
      "Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n"
      "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
      argv[1], argv[2], body_bytes, opening);
  mark_at = request_len;
  size_t text = body_bytes - (size_t)opening_len - (sizeof closing - 1);
  for (size_t i = 0; i < text; i++) request[request_len++] = filler[i % (sizeof filler - 1)];
  memcpy(request + request_len, closing, sizeof closing - 1);
  request_len += sizeof closing - 1;

  epoll_fd = epoll_create1(0);
  conns = calloc((size_t)num_conns, sizeof *conns);
  for (int i = 0; i < num_conns; i++) open_conn(&conns[i]);
  uint64_t begun = now_ns(), warm = 1000000000u, length = (uint64_t)(seconds * 1e9);
  struct rusage before, after;
  char *in = malloc(IN_BYTES);
  struct epoll_event events[512];
  for (;;) {
    uint64_t now = now_ns();
    if (!counting && now - begun >= warm) {
      counting = true;
      begun = now;
      num_done = num_errors = num_events = num_reads = num_times = 0;
      getrusage(RUSAGE_SELF, &before);
      warm = 0;
      puts("begin");
      fflush(stdout);
    }
    if (counting && now - begun >= length) break;
    int ready = epoll_wait(epoll_fd, events, 512, 10);
    for (int i = 0; i < ready; i++) {
      Conn *c = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) {
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        write_more(c);
      }
      if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
      ssize_t n = recv(c->fd, in, IN_BYTES, 0);
      if (n <= 0) {
        if (n < 0 && errno == EAGAIN) continue;
        num_errors++;
        close(c->fd);
        open_conn(c);
        continue;
      }
      feed(c, in, (size_t)n);
    }
  }
  double took = (double)(now_ns() - begun) / 1e9;
  getrusage(RUSAGE_SELF, &after);
  double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
               (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
  qsort(times, num_times, sizeof *times, by_value);
  printf("{\"seconds\":%.3f,\"requests\":%lu,\"errors\":%lu,\"events\":%lu,\"reads\":%lu,\"cpu_seconds\":%.3f,"
         "\"p50_us\":%u,\"p90_us\":%u,\"p99_us\":%u,\"max_us\":%u}\n",
         took, num_done, num_errors, num_events, num_reads, cpu, quantile(.5), quantile(.9), quantile(.99), quantile(1));
}
