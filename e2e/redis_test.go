package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
)

// redis is a Redis server on a socket of its own, which may be stopped and started again.
type redis struct {
	socket string
	*process
}

// newRedis returns a Redis that has not been started.
func newRedis(t *testing.T) *redis {
	t.Helper()
	program(t, "redis-server")
	program(t, "redis-cli")
	dir, err := os.MkdirTemp("", "redis") // t's own would be too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &redis{socket: filepath.Join(dir, "s")}
}

func (r *redis) start(t *testing.T) {
	t.Helper()
	r.process = start(t, command(t, program(t, "redis-server"), "--port", "0", "--unixsocket", r.socket, "--save", "", "--appendonly", "no"), newJournal())
	r.log.await(t, "starting redis", says("ready to accept connections at"))
}

// do runs one command and returns what it answers, line by line.
func (r *redis) do(t *testing.T, args ...string) []string {
	t.Helper()
	return strings.Fields(mustRun(t, program(t, "redis-cli"), append([]string{"-s", r.socket, "--raw"}, args...)...))
}

// remembered returns the verdicts Tidewaiter keeps there, sorted.
func (r *redis) remembered(t *testing.T) []string {
	t.Helper()
	return slices.Sorted(slices.Values(r.do(t, "KEYS", "tidewaiter:*:verdict:*")))
}

// redisSite is an installation that shares verdicts in Redis, with an allowed and a denied image.
func redisSite(t *testing.T, r *redis) *site {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	writeFile(t, s.path("seal.key"), fmt.Appendf(nil, "%x", ocitest.Random(32, 1)))
	s.config["redis"] = keys{"url": "unix://" + r.socket, "seal_key_file": s.path("seal.key")}
	s.pushSigned(t, "shop/web", shop(goodLodash))
	s.pushSigned(t, "shop/vulnerable", shop(badLodash))
	return s
}

// rightVerdicts checks that the verdicts of [redisSite] are what they always are. Each is asked for once before anything else is, so
// that it is known how often Redis was asked.
func rightVerdicts(t *testing.T, p *server) {
	t.Helper()
	denied := p.get(t, "/v2/"+host+"/shop/vulnerable/manifests/1.0")
	if denied.status != http.StatusForbidden || !strings.Contains(denied.failure().Message, "CVE-2019-10744") {
		t.Errorf("shop/vulnerable: status %d: %s, want a refusal for CVE-2019-10744", denied.status, denied.body)
	}
	if got := p.get(t, "/v2/"+host+"/shop/web/manifests/1.0"); got.status != http.StatusOK {
		t.Errorf("shop/web: status %d: %s, want 200", got.status, got.body)
	}
	p.mustPull(t, "shop/web")
}

// count compares one of the proxy's metrics with what it should be.
func (s *server) count(t *testing.T, metric string, want float64) {
	t.Helper()
	if got := s.metric(t, metric, ""); got != want {
		t.Errorf("%s is %v, want %v", metric, got, want)
	}
}

// undisturbed tries until Redis has answered every call of the server that try returns. The proxy goes on without it after 50 ms, and a
// busy machine may take longer than that.
func undisturbed(t *testing.T, try func() *server) *server {
	t.Helper()
	for range 10 {
		p := try()
		if p.metric(t, "tidewaiter_redis_errors_total", "") == 0 {
			return p
		}
		p.stop(t)
	}
	t.Fatal("redis never answers in time")
	return nil
}

func TestRedis(t *testing.T) {
	r := newRedis(t)
	r.start(t)
	s := redisSite(t, r)
	served := func() *server { // and Redis knows both verdicts afterwards
		t.Helper()
		return undisturbed(t, func() *server {
			r.do(t, "FLUSHALL")
			p := s.serve(t)
			rightVerdicts(t, p)
			return p
		})
	}
	served().stop(t)
	all := r.remembered(t)
	p := undisturbed(t, func() *server {
		r.do(t, "FLUSHALL")
		p := s.serve(t)
		p.mustPull(t, "shop/web")
		return p
	})
	p.stop(t)
	allowed := r.remembered(t)
	if len(allowed) != 1 || len(all) != 2 || !slices.Contains(all, allowed[0]) {
		t.Fatalf("redis has %q after both images and %q after one, want a key for each", all, allowed)
	}
	denied := all[0]
	if denied == allowed[0] {
		denied = all[1]
	}

	t.Run("a restart finds the verdicts there", func(t *testing.T) {
		served().stop(t)
		p := undisturbed(t, func() *server {
			p := s.serve(t)
			rightVerdicts(t, p)
			return p
		})
		p.count(t, "tidewaiter_verdict_cache_redis_hits_total", 2)
		p.count(t, "tidewaiter_verdict_cache_misses_total", 0)
		p.count(t, "tidewaiter_redis_tampered_total", 0)
	})

	for _, tt := range []struct {
		law     string
		tamper  [][]string
		ignored float64
	}{
		{"an admission copied over a denial is ignored", [][]string{{"COPY", allowed[0], denied, "REPLACE"}}, 1},
		{"a denial copied over an admission is ignored", [][]string{{"COPY", denied, allowed[0], "REPLACE"}}, 1},
		{"garbage is ignored", [][]string{{"SET", allowed[0], "garbage"}, {"SET", denied, `{"decision":"allow"}`}}, 2},
		{"one byte more is noticed", [][]string{{"APPEND", denied, "x"}}, 1},
		{"values that are none are ignored", [][]string{{"DEL", allowed[0], denied}, {"LPUSH", allowed[0], "x"}, {"HSET", denied, "decision", "allow"}}, 2},
	} {
		t.Run(tt.law+", and counted", func(t *testing.T) {
			p := undisturbed(t, func() *server {
				served().stop(t)
				for _, c := range tt.tamper {
					r.do(t, c...)
				}
				p := s.serve(t)
				rightVerdicts(t, p)
				return p
			})
			p.count(t, "tidewaiter_redis_tampered_total", tt.ignored)
			p.count(t, "tidewaiter_verdict_cache_redis_hits_total", 2-tt.ignored)
		})
	}

	t.Run("flushing it costs nothing but time", func(t *testing.T) {
		p := served()
		r.do(t, "FLUSHALL")
		rightVerdicts(t, p)
		p.stop(t)
		p = served()
		if got := p.metric(t, "tidewaiter_verdicts_total", "decision"); got != 0 {
			t.Errorf("%v verdicts were made again, want none: the ledger has them", got)
		}
		if diff := cmp.Diff(r.remembered(t), all); diff != "" {
			t.Errorf("redis has, got -, want +:\n%s", diff)
		}
	})
}

func TestRedisOutage(t *testing.T) {
	r := newRedis(t)
	r.start(t)
	s := redisSite(t, r)
	p := s.serve(t)
	rightVerdicts(t, p)
	fresh := 0
	pullFresh := func() { // an image nobody remembers anything of
		t.Helper()
		fresh++
		repo := fmt.Sprintf("shop/fresh-%d", fresh)
		s.pushSigned(t, repo, shop(goodLodash, noise(1000, uint64(fresh))))
		p.mustPull(t, repo)
	}

	// Gone: pulls go on, cold ones and warm ones.
	r.kill()
	rightVerdicts(t, p)
	for range 3 {
		pullFresh()
	}
	p.log.await(t, "noticing that redis is gone", says("redis does not answer"))
	if got := request(t, http.MethodGet, "http://"+p.admin+"/readyz").status; got != 200 {
		t.Errorf("readyz without redis: %d, want 200", got)
	}

	// A proxy starts without it, and knows its verdicts.
	p.stop(t)
	p = s.serve(t)
	rightVerdicts(t, p)
	for p.log.count(says("redis does not answer")) == 0 && fresh < maxFresh {
		pullFresh()
	}

	// Back: it is used again, by and by.
	r.start(t)
	for p.log.count(says("redis answers again")) == 0 && fresh < maxFresh {
		pullFresh()
	}
	before := len(r.remembered(t))
	for len(r.remembered(t)) == before && fresh < maxFresh {
		pullFresh()
	}
	if fresh >= maxFresh {
		t.Errorf("redis was not used again for %d fresh images", fresh)
	}
}

// maxFresh bounds the images pulled while Redis is waited for; it is asked whether it is back once a second.
const maxFresh = 1000
