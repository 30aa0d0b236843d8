// An engine without a model: answers what routers ask of vLLM, on several addresses, on one core.
//
//   engine METRICS_PAGE PORT HOST...
//
// POST /v1/chat/completions   1 KB of JSON, or ("stream": true) one event every "interval_us" until
//                             "max_tokens" have been sent
// POST .../render, /tokenize  token ids of the prompt, one for four bytes: cache-aware routers ask
// GET  /metrics               the page given, a real one
// GET  anything else          200, {"data":[{"id":"m"}], ...}

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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536

typedef struct {
  char *in, *out;
  size_t in_len, in_cap, out_len, out_cap;
  long left;             // events of a stream that are still to come
  uint64_t due, every;   // nanoseconds
  int next;              // the next stream that is due, by file descriptor
  bool open, listening;
} Conn;

static Conn conns[MAX_FDS];
static int epoll_fd, first_due = -1, last_due = -1;
static char *page_answer, *json_answer, *info_answer;
static size_t page_len, json_len, info_len;

static const char EVENT[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"object\":"
    "\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,"
    "\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    "transfer-encoding: chunked\r\n\r\n";
static const char STREAM_END[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
static char event_chunk[sizeof EVENT + 16];
static size_t event_len;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static char *whole(const char *type, const char *body, size_t len, size_t *out_len) {
  char *answer = malloc(len + 256);
  int head = sprintf(answer,
                     "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n", type, len);
  memcpy(answer + head, body, len);
  *out_len = (size_t)head + len;
  return answer;
}

static void drop(int fd) {
  close(fd);
  conns[fd].open = false;
  conns[fd].in_len = conns[fd].out_len = 0;
  conns[fd].left = 0;
}

static void send_all(int fd, const char *data, size_t len) {
  Conn *c = &conns[fd];
  if (!c->out_len) {
    ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
      drop(fd);
      return;
    }
    if (sent > 0) data += sent, len -= (size_t)sent;
  }
  if (!len) return;
  if (c->out_len + len > c->out_cap) {
    c->out_cap = (c->out_len + len) * 2;
    c->out = realloc(c->out, c->out_cap);
  }
  memcpy(c->out + c->out_len, data, len);
  c->out_len += len;
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.fd = fd};
  epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e);
}

static void flush_out(int fd) {
  Conn *c = &conns[fd];
  ssize_t sent = send(fd, c->out, c->out_len, MSG_NOSIGNAL);
  if (sent < 0) {
    if (errno != EAGAIN) drop(fd);
    return;
  }
  c->out_len -= (size_t)sent;
  memmove(c->out, c->out + sent, c->out_len);
  if (!c->out_len) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e);
  }
}

static void schedule(int fd, uint64_t due) {
  conns[fd].due = due;
  conns[fd].next = -1;
  if (last_due >= 0) conns[last_due].next = fd;
  else first_due = fd;
  last_due = fd;
}

// All streams of a run have one interval, so the order of starting is the order of being due.
static void run_due(uint64_t now) {
  while (first_due >= 0 && conns[first_due].due <= now) {
    int fd = first_due;
    first_due = conns[fd].next;
    if (first_due < 0) last_due = -1;
    Conn *c = &conns[fd];
    if (!c->open || c->left <= 0) continue;
    if (--c->left == 0) {
      send_all(fd, STREAM_END, sizeof STREAM_END - 1);
      continue;
    }
    send_all(fd, event_chunk, event_len);
    if (conns[fd].open) schedule(fd, c->due + c->every);
  }
}

// The ids stand there twice: /render calls them "token_ids", /tokenize "tokens".
static void answer_tokens(int fd, const char *body, size_t len) {
  const char *content = memmem(body, len, "\"content\":\"", 11);
  const char *start = content ? content + 11 : body;
  const char *end = memchr(start, '"', (size_t)(body + len - start));
  size_t bytes = (size_t)((end ? end : body + len) - start), count = bytes / 4 + 1;
  char *ids = malloc(count * 6 + 1), *at = ids;
  for (size_t i = 0; i < count; i++) {
    uint32_t hash = 2166136261u;
    for (size_t k = i * 4; k < i * 4 + 4 && k < bytes; k++)
      hash = (hash ^ (uint8_t)start[k]) * 16777619u;
    uint32_t id = hash % 100000;
    char digits[8];
    int n = 0;
    do digits[n++] = (char)('0' + id % 10), id /= 10;
    while (id);
    while (n) *at++ = digits[--n];
    if (i + 1 < count) *at++ = ',';
  }
  *at = 0;
  char *json = malloc(count * 12 + 512);
  int total = sprintf(json,
                      "{\"request_id\":\"r\",\"model\":\"m\",\"count\":%zu,\"max_model_len\":131072,"
                      "\"sampling_params\":{\"max_tokens\":16},\"token_ids\":[%s],\"tokens\":[%s]}",
                      count, ids, ids);
  size_t answer_len;
  char *http = whole("application/json", json, (size_t)total, &answer_len);
  send_all(fd, http, answer_len);
  free(http), free(json), free(ids);
}

static long number_after(const char *body, size_t len, const char *name, long otherwise) {
  const char *at = memmem(body, len, name, strlen(name));
  return at ? atol(at + strlen(name)) : otherwise;
}

static void answer(int fd, const char *head, const char *body, size_t body_len) {
  Conn *c = &conns[fd];
  if (!strncmp(head, "GET /metrics", 12)) {
    send_all(fd, page_answer, page_len);
  } else if (!strncmp(head, "GET ", 4)) {
    send_all(fd, info_answer, info_len);
  } else if (strstr(head, "/render HTTP") || strstr(head, "/tokenize HTTP")) {
    answer_tokens(fd, body, body_len);
  } else if (memmem(body, body_len, "\"stream\":true", 13)) {
    c->every = (uint64_t)number_after(body, body_len, "\"interval_us\":", 20000) * 1000u;
    c->left = number_after(body, body_len, "\"max_tokens\":", 16) + 1;
    // Streams start at once but not in step: each at its own place within the first interval.
    uint64_t place = c->every * (uint64_t)(fd % 1024) / 1024;
    send_all(fd, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    // The first token comes at once, as from an engine that is idle: a router that watches for it
    // would take one that takes seconds to be full.
    c->left--;
    send_all(fd, event_chunk, event_len);
    uint64_t due = now_ns() + place;
    if (last_due >= 0 && due < conns[last_due].due) due = conns[last_due].due;
    if (c->open) schedule(fd, due);
  } else {
    send_all(fd, json_answer, json_len);
  }
}

static void on_readable(int fd) {
  Conn *c = &conns[fd];
  if (c->in_cap - c->in_len < 65536) {
    c->in_cap = c->in_cap * 2 + 131072;
    c->in = realloc(c->in, c->in_cap);
  }
  ssize_t got = recv(fd, c->in + c->in_len, c->in_cap - c->in_len - 1, 0);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) drop(fd);
    return;
  }
  c->in_len += (size_t)got;
  while (c->in_len) {
    c->in[c->in_len] = 0;
    char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!end) return;
    size_t head_len = (size_t)(end - c->in) + 4, body_len = 0;
    *end = 0;
    char *length = strcasestr(c->in, "\ncontent-length:");
    bool chunked = strcasestr(c->in, "\ntransfer-encoding: chunked") != NULL;
    *end = '\r';
    if (length) body_len = (size_t)atol(length + 16);
    size_t total = head_len + body_len;
    if (chunked) {
      char *last = memmem(c->in + head_len, c->in_len - head_len, "0\r\n\r\n", 5);
      if (!last) return;
      body_len = (size_t)(last - (c->in + head_len));
      total = head_len + body_len + 5;
    }
    if (c->in_len < total) return;
    answer(fd, c->in, c->in + head_len, body_len);
    if (!c->open) return;
    c->in_len -= total;
    memmove(c->in, c->in + total, c->in_len);
  }
}

static char *read_file(const char *path, size_t *len) {
  FILE *file = fopen(path, "rb");
  if (!file) die(path);
  fseek(file, 0, SEEK_END);
  *len = (size_t)ftell(file);
  rewind(file);
  char *data = malloc(*len + 1);
  if (fread(data, 1, *len, file) != *len) die(path);
  fclose(file);
  return data;
}

int main(int argc, char **argv) {
  if (argc < 4) return fprintf(stderr, "usage: engine METRICS_PAGE PORT HOST...\n"), 2;
  struct rlimit limit = {MAX_FDS, MAX_FDS};
  setrlimit(RLIMIT_NOFILE, &limit);
  size_t len;
  char *page = read_file(argv[1], &len);
  page_answer = whole("text/plain; version=0.0.4", page, len, &page_len);
  char body[2048];
  int n = sprintf(body,
                  "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1700000000,"
                  "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%0*d\"},"
                  "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":230,\"total_tokens\":246,"
                  "\"completion_tokens\":16}}", 760, 0);
  json_answer = whole("application/json", body, (size_t)n, &json_len);
  n = sprintf(body, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"max_model_len\":131072}],"
                    "\"model_path\":\"m\",\"is_generation\":true,\"version\":\"0.32.0\",\"status\":\"ok\"}");
  info_answer = whole("application/json", body, (size_t)n, &info_len);
  event_len = (size_t)sprintf(event_chunk, "%zx\r\n%s\r\n", sizeof EVENT - 1, EVENT);

  epoll_fd = epoll_create1(0);
  for (int i = 3; i < argc; i++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[i], &address.sin_addr);
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 16384)) die(argv[i]);
    conns[fd].listening = conns[fd].open = true;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
  }
  puts("ready");
  fflush(stdout);
  struct epoll_event events[512];
  for (;;) {
    uint64_t now = now_ns();
    run_due(now);
    int wait = -1;
    if (first_due >= 0) wait = conns[first_due].due > now ? (int)((conns[first_due].due - now) / 1000000u) : 0;
    int ready = epoll_wait(epoll_fd, events, 512, wait);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      if (conns[fd].listening) {
        for (int made; (made = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
          int one = 1;
          if (made >= MAX_FDS) { close(made); continue; }
          setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          conns[made].open = true;
          conns[made].listening = false;
          conns[made].in_len = conns[made].out_len = 0;
          conns[made].left = 0;
          struct epoll_event e = {.events = EPOLLIN, .data.fd = made};
          epoll_ctl(epoll_fd, EPOLL_CTL_ADD, made, &e);
        }
        continue;
      }
      if (conns[fd].open && (events[i].events & EPOLLOUT)) flush_out(fd);
      if (conns[fd].open && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) on_readable(fd);
    }
  }
}
