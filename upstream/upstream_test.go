package upstream

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

// app is the repository most tests read.
var app = oci.Repository{Upstream: "registry.test", Path: "team/app"}

const (
	appManifest = "/v2/team/app/manifests/"
	appBlob     = "/v2/team/app/blobs/"
)

// image is a manifest as an upstream would send it.
const image = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

// server is a registry in process. It records what it is asked.
type server struct {
	*httptest.Server

	mu sync.Mutex
	// requests is guarded by mu.
	requests []*http.Request
}

func serve(t *testing.T, handler http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// asked returns the requests so far, as "METHOD path".
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, r := range s.requests {
		lines = append(lines, r.Method+" "+r.URL.Path)
	}
	return lines
}

// headers returns the values of one header over all requests so far.
func (s *server) headers(key string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []string
	for _, r := range s.requests {
		values = append(values, r.Header.Get(key))
	}
	return values
}

// clock is a time that only tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func newClock() *clock { return &clock{now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// events collects what is observed.
type events struct {
	mu  sync.Mutex
	all []Event // guarded by mu
}

func (e *events) observe(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) seen() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.all...)
}

// configFor returns an upstream "registry.test" at s that may be on this machine.
func configFor(s *server) Config {
	return Config{Host: app.Upstream, URL: s.URL, UnsafePrivateAddresses: true}
}

func open(t *testing.T, o Options, configs ...Config) *Registries {
	t.Helper()
	o.UserAgent = "tidewaiter/test"
	o.retryWait = time.Nanosecond
	rs, err := New(configs, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.Close)
	return rs
}

// write answers with a manifest, and the header a registry sends with it.
func writeManifest(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", oci.MediaTypeImage)
	w.Header().Set("Docker-Content-Digest", oci.FromBytes([]byte(body)).String())
	_, _ = w.Write([]byte(body))
}

// answerOf returns the code and wait a client would see of err.
func answerOf(err error) (oci.Code, time.Duration) {
	e, ok := errors.AsType[*oci.Error](err)
	if !ok {
		return "", 0
	}
	return e.Code, e.RetryAfter
}

func TestAllowed(t *testing.T) {
	rs := open(t, Options{},
		Config{Host: "docker.io", Allow: []string{"library/*", "grafana/**"}, Deny: []string{"library/evil", "grafana/**/old"}},
		Config{Host: "ghcr.io"},
		Config{Host: "quay.io", Allow: []string{}},
		Config{Host: "gcr.io", Deny: []string{"**"}},
	)
	tests := map[string]struct {
		repo oci.Repository
		want string // the message; empty when allowed
	}{
		"a listed repository":            {oci.Repository{Upstream: "docker.io", Path: "library/nginx"}, ""},
		"below a listed prefix":          {oci.Repository{Upstream: "docker.io", Path: "grafana/a/b"}, ""},
		"not listed":                     {oci.Repository{Upstream: "docker.io", Path: "foo/bar"}, "docker.io/foo/bar is not on the allowlist of upstream docker.io"},
		"patterns are anchored in front": {oci.Repository{Upstream: "docker.io", Path: "x/library/nginx"}, "docker.io/x/library/nginx is not on the allowlist of upstream docker.io"},
		"patterns are anchored behind":   {oci.Repository{Upstream: "docker.io", Path: "library/nginx/x"}, "docker.io/library/nginx/x is not on the allowlist of upstream docker.io"},
		"deny wins over allow":           {oci.Repository{Upstream: "docker.io", Path: "library/evil"}, "docker.io/library/evil is not on the allowlist of upstream docker.io: it is denied there"},
		"deny by pattern":                {oci.Repository{Upstream: "docker.io", Path: "grafana/x/old"}, "docker.io/grafana/x/old is not on the allowlist of upstream docker.io: it is denied there"},
		"no list means everything":       {oci.Repository{Upstream: "ghcr.io", Path: "any/thing"}, ""},
		"an empty list means nothing":    {oci.Repository{Upstream: "quay.io", Path: "any/thing"}, "quay.io/any/thing is not on the allowlist of upstream quay.io"},
		"everything denied":              {oci.Repository{Upstream: "gcr.io", Path: "any/thing"}, "gcr.io/any/thing is not on the allowlist of upstream gcr.io: it is denied there"},
		"an unknown upstream":            {oci.Repository{Upstream: "evil.example", Path: "a/b"}, "evil.example/a/b is not on the allowlist: its upstream is not configured"},
		"no upstream":                    {oci.Repository{Path: "a/b"}, "a/b is not on the allowlist: its upstream is not configured"},
		"the zero repository":            {oci.Repository{}, " is not on the allowlist: its upstream is not configured"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := rs.Allowed(tc.repo)
			got := ""
			if err != nil {
				got = err.Error()
				if code, _ := answerOf(err); code != oci.CodeDenied {
					t.Errorf("got code %s, want %s", code, oci.CodeDenied)
				}
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// A repository that is not allowed is never asked for, whatever the method.
func TestDeniedIsNeverAsked(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image) })
	c := configFor(s)
	c.Allow = []string{"other/*"}
	rs := open(t, Options{}, c)
	digest := oci.FromBytes([]byte(image))
	desc := oci.Descriptor{Digest: digest, Size: 2}
	ctx := t.Context()

	_, resolve := rs.Resolve(ctx, app, "latest")
	_, manifest := rs.Manifest(ctx, app, digest.String())
	_, blob := rs.Blob(ctx, app, desc)
	_, referrers := rs.Referrers(ctx, app, digest)
	_, _, tags := rs.Tags(ctx, app, 0, "")
	for name, err := range map[string]error{
		"resolve": resolve, "manifest": manifest, "blob": blob, "blob exists": rs.BlobExists(ctx, app, desc), "referrers": referrers, "tags": tags,
	} {
		if code, _ := answerOf(err); code != oci.CodeDenied {
			t.Errorf("%s: got %v, want code %s", name, err, oci.CodeDenied)
		}
	}
	if got := s.asked(); got != nil {
		t.Errorf("got requests %q, want none", got)
	}
}

// What is not well formed is refused before anything is sent.
func TestMalformedIsNeverAsked(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeManifest(w, image) })
	rs := open(t, Options{}, configFor(s))
	ctx := t.Context()
	outside := oci.Repository{Upstream: app.Upstream, Path: "../../admin"}

	_, badName := rs.Resolve(ctx, outside, "latest")
	_, badTag := rs.Resolve(ctx, app, "a/../b")
	_, badDigest := rs.Manifest(ctx, app, "sha256:zz")
	_, badAlgorithm := rs.Manifest(ctx, app, "sha512:"+strings.Repeat("0", 128))
	_, badBlob := rs.Blob(ctx, app, oci.Descriptor{Digest: "sha256:../x", Size: 1})
	_, badSize := rs.Blob(ctx, app, oci.Descriptor{Digest: oci.FromBytes(nil), Size: -1})
	_, badSubject := rs.Referrers(ctx, app, "latest")
	_, _, badLast := rs.Tags(ctx, app, 1, strings.Repeat("x", 129))
	for name, tc := range map[string]struct{ got, want error }{
		"repository": {badName, oci.ErrNameInvalid},
		"tag":        {badTag, oci.ErrTagInvalid},
		"digest":     {badDigest, oci.ErrDigestInvalid},
		"algorithm":  {badAlgorithm, oci.ErrDigestInvalid},
		"blob":       {badBlob, oci.ErrDigestInvalid},
		"blob size":  {badSize, oci.ErrManifestInvalid},
		"subject":    {badSubject, oci.ErrDigestInvalid},
		"last":       {badLast, oci.ErrTagInvalid},
	} {
		if !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, tc.got, tc.want)
		}
	}
	if got := s.asked(); got != nil {
		t.Errorf("got requests %q, want none", got)
	}
}

func TestSignaturesIn(t *testing.T) {
	rs := open(t, Options{},
		Config{Host: "docker.io", SignaturesIn: "ghcr.io/acme/signatures"},
		Config{Host: "ghcr.io", Allow: []string{"acme/app"}},
		Config{Host: "quay.io", SignaturesIn: "acme/signatures"},
	)
	signatures := oci.Repository{Upstream: "ghcr.io", Path: "acme/signatures"}
	tests := map[string]struct{ repo, want oci.Repository }{
		"in another upstream":          {oci.Repository{Upstream: "docker.io", Path: "library/nginx"}, signatures},
		"beside the image":             {oci.Repository{Upstream: "ghcr.io", Path: "acme/app"}, oci.Repository{Upstream: "ghcr.io", Path: "acme/app"}},
		"without a host, in this one":  {oci.Repository{Upstream: "quay.io", Path: "acme/app"}, oci.Repository{Upstream: "quay.io", Path: "acme/signatures"}},
		"of an upstream nobody set up": {oci.Repository{Upstream: "gcr.io", Path: "a"}, oci.Repository{Upstream: "gcr.io", Path: "a"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(rs.SignaturesIn(tc.repo), tc.want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
	t.Run("is not thereby allowed to clients", func(t *testing.T) {
		if code, _ := answerOf(rs.Allowed(signatures)); code != oci.CodeDenied {
			t.Errorf("got %q, want %s", code, oci.CodeDenied)
		}
	})
	t.Run("is readable all the same", func(t *testing.T) {
		if _, err := rs.readable(signatures); err != nil {
			t.Errorf("got %v, want none", err)
		}
	})
}

func TestDefaultsAreSound(t *testing.T) {
	rs := open(t, Options{}, Defaults()...)
	want := []string{"docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"}
	if diff := cmp.Diff(rs.Hosts(), want); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
	hub := rs.byHost["docker.io"]
	if got, want := hub.url.String(), "https://registry-1.docker.io"; got != want {
		t.Errorf("got url %s, want %s", got, want)
	}
	if hub.TagTTL != DefaultTagTTL || hub.UnsafePrivateAddresses {
		t.Errorf("got tag_ttl %s, private addresses %t", hub.TagTTL, hub.UnsafePrivateAddresses)
	}
}

// The table of defaults is not one that a caller can change for the next.
func TestDefaultsAreCopies(t *testing.T) {
	Defaults()[0].Realms[0] = "https://evil.example"
	if got, want := Defaults()[0].Realms[0], "https://auth.docker.io"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Unsafe settings appear in the log at start.
func TestUnsafeIsLogged(t *testing.T) {
	var text strings.Builder
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	open(t, Options{Log: slog.New(slog.NewTextHandler(&text, nil))}, configFor(s))
	if got := text.String(); !strings.Contains(got, "unsafe_private_addresses is set") || !strings.Contains(got, "upstream=registry.test") {
		t.Errorf("got log %q, want a warning", got)
	}
}
