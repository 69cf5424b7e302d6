package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func repeated(line string, n int) []string {
	var lines []string
	for range n {
		lines = append(lines, line)
	}
	return lines
}

func TestRetries(t *testing.T) {
	const get = "GET " + appManifest + "latest"
	tests := map[string]struct {
		failures int
		fail     func(w http.ResponseWriter)
		want     error
		requests int
	}{
		"unavailable twice":       {2, func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }, nil, 3},
		"a bad gateway once":      {1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, nil, 2},
		"a timeout thrice":        {3, func(w http.ResponseWriter) { w.WriteHeader(http.StatusGatewayTimeout) }, oci.ErrUnavailable, 3},
		"hangs up once":           {1, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, nil, 2},
		"an error of its own":     {1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }, oci.ErrUnavailable, 1},
		"missing":                 {1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, oci.ErrNotFound, 1},
		"forbidden":               {1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) }, oci.ErrUnauthorized, 1},
		"limited":                 {1, func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, oci.ErrRateLimited, 1},
		"unavailable until later": {1, func(w http.ResponseWriter) { w.Header().Set("Retry-After", "9"); w.WriteHeader(503) }, oci.ErrUnavailable, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var failed atomic.Int32
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if int(failed.Add(1)) <= tc.failures {
					tc.fail(w)
					return
				}
				writeManifest(w, image)
			})
			_, err := open(t, Options{}, configFor(s)).Manifest(t.Context(), app, "latest")
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if diff := cmp.Diff(s.asked(), repeated(get, tc.requests)); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

func TestRetriesWaitALittleLongerEachTime(t *testing.T) {
	p := retries{wait: time.Second}
	unavailable := &http.Response{StatusCode: http.StatusServiceUnavailable}
	for attempt, want := range []time.Duration{time.Second, 2 * time.Second} {
		for range 100 {
			got, err := p.Retry(attempt, unavailable, nil)
			if err != nil || got < want/2 || got > want*3/2 {
				t.Fatalf("attempt %d: got %s, %v, want %s give or take half", attempt, got, err, want)
			}
		}
	}
	if got, err := p.Retry(maxRetries, unavailable, nil); got >= 0 || err != nil {
		t.Errorf("got %s, %v, want no more retries", got, err)
	}
}

func TestLimitedUpstreamIsLeftAlone(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	c := newClock()
	rs := open(t, Options{Now: c.Now}, configFor(s))
	for _, want := range []time.Duration{60 * time.Second, 60 * time.Second, 20 * time.Second} {
		if want < 60*time.Second {
			c.advance(40 * time.Second)
		}
		_, err := rs.Manifest(t.Context(), app, "latest")
		if code, wait := answerOf(err); code != oci.CodeTooManyRequests || wait != want {
			t.Errorf("got %s after %s, want %s after %s", code, wait, oci.CodeTooManyRequests, want)
		}
	}
	if got := len(s.asked()); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
	c.advance(20 * time.Second)
	if _, err := rs.Manifest(t.Context(), app, "latest"); !errors.Is(err, oci.ErrRateLimited) {
		t.Errorf("got %v, want %v", err, oci.ErrRateLimited)
	}
	if got := len(s.asked()); got != 2 {
		t.Errorf("got %d requests once the time was over, want 2", got)
	}
}

func TestDownUpstreamIsLeftAlone(t *testing.T) {
	var healthy atomic.Bool
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if !healthy.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		writeManifest(w, image)
	})
	c := newClock()
	rs := open(t, Options{Now: c.Now}, configFor(s))
	for range breakerThreshold + 10 {
		if _, err := rs.Manifest(t.Context(), app, "latest"); !errors.Is(err, oci.ErrUnavailable) {
			t.Fatalf("got %v, want %v", err, oci.ErrUnavailable)
		}
	}
	if got := len(s.asked()); got != breakerThreshold {
		t.Errorf("got %d requests, want %d", got, breakerThreshold)
	}
	healthy.Store(true)
	c.advance(breakerMinWait)
	for range 3 {
		if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
			t.Errorf("got %v once the upstream was back", err)
		}
	}
	if got := len(s.asked()); got != breakerThreshold+3 {
		t.Errorf("got %d requests, want %d", got, breakerThreshold+3)
	}
}

// Answers that nothing is there, or not for us, are answers: they do not make an upstream count as down.
func TestAbsenceIsNotAnOutage(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	rs := open(t, Options{}, configFor(s))
	for range 3 * breakerThreshold {
		if _, err := rs.Manifest(t.Context(), app, "latest"); !errors.Is(err, oci.ErrNotFound) || !oci.IsMissing(err) {
			t.Fatalf("got %v, want %v", err, oci.ErrNotFound)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	s.Close()
	_, err := open(t, Options{}, configFor(s)).Manifest(t.Context(), app, "latest")
	if code, wait := answerOf(err); code != oci.CodeUnavailable || wait <= 0 || oci.IsMissing(err) {
		t.Errorf("got %v, want %s with a time to come back", err, oci.CodeUnavailable)
	}
}

func TestCallerLeaves(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	seen := &events{}
	rs := open(t, Options{Observe: seen.observe}, configFor(s))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := rs.Manifest(ctx, app, "latest")
	if _, isAnswer := errors.AsType[*oci.Error](err); !errors.Is(err, context.Canceled) || isAnswer {
		t.Errorf("got %v, want %v and no answer", err, context.Canceled)
	}
	if diff := cmp.Diff(seen.seen(), []Event{{app.Upstream, KindManifest, OutcomeAbandoned, 0}}); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	if got := rs.byHost[app.Upstream].endpoints[0].breaker.failures; got != 0 {
		t.Errorf("got %d failures counted, want none", got)
	}
}

// publicly makes rs reach s as if it were on the public internet, and everything else as the configuration allows.
func publicly(rs *Registries, s *server) {
	transport := rs.byHost[app.Upstream].transports[0]
	guarded, free := transport.DialContext, &net.Dialer{}
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == s.Listener.Addr().String() {
			return free.DialContext(ctx, network, address)
		}
		return guarded(ctx, network, address)
	}
}

func TestPrivateAddressesAreNotDialled(t *testing.T) {
	inside := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image) })
	inward := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, inside.URL+"/latest/meta-data", http.StatusFound)
	}
	byName := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(inside.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	}
	toRealm := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", inside.URL))
		w.WriteHeader(http.StatusUnauthorized)
	}
	for name, handler := range map[string]http.HandlerFunc{"by redirect": inward, "by a name": byName, "by a realm": toRealm} {
		t.Run(name, func(t *testing.T) {
			reg := serve(t, handler)
			rs := open(t, Options{}, Config{Host: app.Upstream, URL: reg.URL, Realms: []string{inside.URL}})
			publicly(rs, reg)
			_, err := rs.Manifest(t.Context(), app, "latest")
			if !errors.Is(err, errPrivateAddress) || !errors.Is(err, oci.ErrUnavailable) {
				t.Errorf("got %v, want errPrivateAddress and %v", err, oci.ErrUnavailable)
			}
			if got := len(reg.asked()); got != 1 {
				t.Errorf("got %d requests at the upstream, want 1", got)
			}
		})
	}
	t.Run("as the upstream itself", func(t *testing.T) {
		rs := open(t, Options{}, Config{Host: app.Upstream, URL: inside.URL})
		if _, err := rs.Manifest(t.Context(), app, "latest"); !errors.Is(err, errPrivateAddress) {
			t.Errorf("got %v, want errPrivateAddress", err)
		}
	})
	if got := inside.asked(); got != nil {
		t.Errorf("got requests %q inside, want none", got)
	}
}

// What an upstream writes in an error is for the debug log, cut short, and for nobody else.
func TestUpstreamTextStaysInTheDebugLog(t *testing.T) {
	const text = "<script>alert(1)</script>\nforged=line"
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(text + strings.Repeat("x", 1<<20)))
	})
	var debug, info bytes.Buffer
	for out, level := range map[*bytes.Buffer]slog.Level{&debug: slog.LevelDebug, &info: slog.LevelInfo} {
		log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level}))
		_, err := open(t, Options{Log: log}, configFor(s)).Manifest(t.Context(), app, "latest")
		if err == nil || strings.Contains(err.Error(), "script") {
			t.Errorf("got %v, want an error without the upstream's text", err)
		}
	}
	if got := debug.String(); !strings.Contains(got, "script") || strings.Contains(got, "\nforged") || len(got) > 4<<10 {
		t.Errorf("got debug log %.2000q, want an excerpt on one line", got)
	}
	if got := info.String(); strings.Contains(got, "script") {
		t.Errorf("got info log %q, want nothing of it", got)
	}
}

// A signed location is a permission to read; it is not written down.
func TestSignedLocationsAreNotLogged(t *testing.T) {
	dead := serve(t, func(http.ResponseWriter, *http.Request) {})
	dead.Close()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, dead.URL+"/object?X-Amz-Signature=s3cret", http.StatusFound)
	})
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	_, err := open(t, Options{Log: log}, configFor(s)).Manifest(t.Context(), app, "latest")
	if err == nil || strings.Contains(err.Error()+out.String(), "s3cret") {
		t.Errorf("got %v and log %s, want neither to hold the signature", err, out.String())
	}
}

func TestMirrors(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if status == http.StatusOK {
				writeManifest(w, image)
				return
			}
			w.WriteHeader(status)
		}
	}
	corrupt := func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image+" ") }
	tests := map[string]struct {
		mirror, registry http.HandlerFunc
		want             error
		wantRegistry     int
	}{
		"a mirror's answer is enough":          {answer(200), answer(500), nil, 0},
		"the registry has what a mirror lacks": {answer(404), answer(200), nil, 1},
		"a mirror that is down is passed over": {answer(500), answer(200), nil, 1},
		"a mirror that limits is passed over":  {answer(429), answer(200), nil, 1},
		"a mirror that refuses is passed over": {answer(403), answer(200), nil, 1},
		"a mirror with other content":          {corrupt, answer(200), nil, 1},
		"only the registry can say it is gone": {answer(404), answer(500), oci.ErrUnavailable, 1},
		"the registry says it is gone":         {answer(500), answer(404), oci.ErrNotFound, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			mirror, reg := serve(t, tc.mirror), serve(t, tc.registry)
			c := configFor(reg)
			c.Mirrors = []string{mirror.URL}
			content, err := open(t, Options{}, c).Manifest(t.Context(), app, oci.FromBytes([]byte(image)).String())
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if tc.want == nil && string(content.Raw) != image {
				t.Errorf("got %q, want %q", content.Raw, image)
			}
			if got := len(mirror.asked()); got != 1 {
				t.Errorf("got %d requests at the mirror, want 1", got)
			}
			if got := len(reg.asked()); got != tc.wantRegistry {
				t.Errorf("got %d requests at the registry, want %d", got, tc.wantRegistry)
			}
		})
	}
}

func TestCAFile(t *testing.T) {
	s := &server{}
	s.Server = newTLSServer(t)
	untrusted := open(t, Options{}, configFor(s))
	if _, err := untrusted.Manifest(t.Context(), app, "latest"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("without the file: got %v, want %v", err, oci.ErrUnavailable)
	}
	c := configFor(s)
	c.CAFile = certificateFile(t, s.Certificate())
	if _, err := open(t, Options{}, c).Manifest(t.Context(), app, "latest"); err != nil {
		t.Errorf("with the file: %v", err)
	}
}
