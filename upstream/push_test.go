package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// registryOf starts a registry that is faithful to the specification, and returns it as the upstream "registry.test".
func registryOf(t *testing.T, o ocitest.Options, edit func(*Config)) (*ocitest.Registry, *Registries) {
	t.Helper()
	r, err := ocitest.StartRegistry(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c := Config{Host: app.Upstream, URL: r.URL(), UnsafePrivateAddresses: true}
	if o.BearerAuth != nil {
		c.Realms = []string{r.TokenURL()}
		if o.BearerAuth.Username != "" {
			c.Credentials = &vault{username: o.BearerAuth.Username, password: o.BearerAuth.Password}
		}
	}
	if edit != nil {
		edit(&c)
	}
	return r, open(t, Options{}, c)
}

// requested returns what a registry was asked, as "METHOD kind".
func requested(r *ocitest.Registry) []string {
	var all []string
	for _, q := range r.Requests() {
		all = append(all, fmt.Sprintf("%s %s", q.Method, q.Kind))
	}
	return all
}

// stored is content that counts how often it is opened, and checks that it is closed.
type stored struct {
	body   []byte
	opened atomic.Int32
	open   atomic.Int32
}

func (s *stored) Open() (io.ReadCloser, error) {
	s.opened.Add(1)
	s.open.Add(1)
	return &storedBody{bytes.NewReader(s.body), s}, nil
}

type storedBody struct {
	io.Reader
	s *stored
}

func (b *storedBody) Close() error {
	b.s.open.Add(-1)
	return nil
}

func keep(t *testing.T, body []byte) (*stored, oci.Descriptor) {
	t.Helper()
	s := &stored{body: body}
	t.Cleanup(func() {
		if left := s.open.Load(); left != 0 {
			t.Errorf("%d bodies were left open", left)
		}
	})
	return s, oci.Descriptor{MediaType: "application/octet-stream", Digest: oci.FromBytes(body), Size: int64(len(body))}
}

func TestPushBlob(t *testing.T) {
	for name, tc := range map[string]struct {
		body []byte
		auth *ocitest.Auth
		want []string
	}{
		"to a registry that lets anybody": {content(300_000), nil, []string{"HEAD blob", "POST upload", "PUT upload"}},
		"nothing":                         {nil, nil, []string{"HEAD blob", "POST upload", "PUT upload"}},
		"with a token":                    {content(300_000), &ocitest.Auth{Username: "ci", Password: "secret", SeparateRealm: true}, []string{"HEAD blob", "GET token", "HEAD blob", "POST upload", "PUT upload"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, rs := registryOf(t, ocitest.Options{BearerAuth: tc.auth}, nil)
			s, desc := keep(t, tc.body)
			if err := rs.HasBlob(t.Context(), app, desc); !errors.Is(err, oci.ErrBlobUnknown) {
				t.Errorf("got %v before the push, want %v", err, oci.ErrBlobUnknown)
			}
			r.RevokeTokens()
			r.ResetRequests()
			rs = open(t, Options{}, rs.byHost[app.Upstream].Config)
			if err := rs.PushBlob(t.Context(), app, desc, s.Open); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(requested(r), tc.want); diff != "" {
				t.Errorf("requests: got, want:\n%s", diff)
			}
			if got, ok := r.Blob(app.Path, desc.Digest); !ok || !bytes.Equal(got, tc.body) {
				t.Errorf("got %d bytes, %t, want %d", len(got), ok, len(tc.body))
			}
			r.ResetRequests()
			if err := rs.PushBlob(t.Context(), app, desc, s.Open); err != nil {
				t.Fatal(err)
			}
			if err := rs.HasBlob(t.Context(), app, desc); err != nil {
				t.Errorf("got %v after the push, want none", err)
			}
			if diff := cmp.Diff(requested(r), []string{"HEAD blob", "HEAD blob"}); diff != "" || s.opened.Load() != 1 {
				t.Errorf("the second time it was opened %d times in all; requests: got, want:\n%s", s.opened.Load(), diff)
			}
		})
	}
}

// A pull never carries a token that could change something, and a push none that could change another repository.
func TestScopes(t *testing.T) {
	realm := tokenService(t, "")
	granted := map[string]string{ // what the registry challenges for, by the method
		http.MethodGet:  "repository:team/app:pull,push",
		http.MethodHead: "repository:team/app:pull,push repository:team/other:pull,push repository:team/app:delete registry:catalog:*",
		http.MethodPost: "repository:team/app:pull,push,delete",
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,scope=%q`, realm.URL, granted[r.Method]))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodGet {
			writeManifest(w, image)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})
	c := configFor(s)
	c.Realms = []string{realm.URL}
	rs := open(t, Options{}, c)
	if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
		t.Fatal(err)
	}
	_, desc := keep(t, content(10))
	if err := rs.HasBlob(t.Context(), app, desc); !errors.Is(err, oci.ErrBlobUnknown) {
		t.Fatal(err)
	}
	if err := rs.BlobExists(t.Context(), app, desc); !errors.Is(err, oci.ErrBlobUnknown) { // the pull's token still serves
		t.Fatal(err)
	}
	want := []string{"", "Bearer token for repository:team/app:pull", "", "Bearer token for repository:team/app:pull,push", "Bearer token for repository:team/app:pull"}
	if diff := cmp.Diff(s.headers("Authorization"), want); diff != "" {
		t.Errorf("got, want:\n%s", diff)
	}
}

func TestPushOnly(t *testing.T) {
	for name, tc := range map[string]struct{ scopes, path, want string }{
		"what is being pushed to":   {"repository:a/b:pull,push", "/v2/a/b/blobs/uploads/", "repository:a/b:pull,push"},
		"in the other order":        {"repository:a/b:push,pull", "/v2/a/b/manifests/x", "repository:a/b:push,pull"},
		"another repository":        {"repository:a/c:pull,push", "/v2/a/b/manifests/x", ""},
		"one with a longer name":    {"repository:a/b/c:push", "/v2/a/b/manifests/x", ""},
		"one with a shorter name":   {"repository:a:push", "/v2/ab/manifests/x", ""},
		"another one to be read":    {"repository:a/c:pull", "/v2/a/b/manifests/x", "repository:a/c:pull"},
		"more than pushing":         {"repository:a/b:pull,push,delete repository:a/b:*", "/v2/a/b/manifests/x", ""},
		"the catalog":               {"registry:catalog:*", "/v2/a/b/manifests/x", ""},
		"a word":                    {"aws", "/v2/a/b/manifests/x", "aws"},
		"outside the API":           {"repository:a/b:pull,push", "/artifacts-uploads/a/b/1", ""},
		"something with two halves": {"a:push", "/v2/a/x", ""},
	} {
		if got := pushOnly(tc.scopes, tc.path); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

// uploads answers HEAD with 404 and POST with a location, and leaves PUT to the handler.
func uploads(location string, put http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodHead:
			w.WriteHeader(http.StatusNotFound)
		case http.MethodPost:
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusAccepted)
		default:
			put(w, r)
		}
	}
}

func take(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusCreated)
}

// Where a blob is sent is for the registry to say; credentials go along only to the registry itself.
func TestPushBlobWhereverTheRegistryWantsIt(t *testing.T) {
	body := content(1000)
	digest := "digest=" + strings.ReplaceAll(oci.FromBytes(body).String(), ":", "%3A")
	storage := serve(t, take)
	for name, tc := range map[string]struct {
		location string
		at       string // where it is sent; empty if it is not
		signed   bool
	}{
		"by a path":                      {"/v2/team/app/blobs/uploads/1", "/v2/team/app/blobs/uploads/1?" + digest, true},
		"by a path relative to it":       {"1?state=a%2Fb", "/v2/team/app/blobs/uploads/1?state=a%2Fb&" + digest, true},
		"outside the API":                {"/artifacts-uploads/x?b=2&a=1", "/artifacts-uploads/x?b=2&a=1&" + digest, true},
		"elsewhere":                      {storage.URL + "/bucket/x?signature=1%2F2", "/bucket/x?signature=1%2F2&" + digest, false},
		"nowhere":                        {"", "", false},
		"with credentials of its choice": {strings.Replace(storage.URL, "//", "//user:secret@", 1), "", false},
		"in a place that is a mask":      {"/.tidewaiter-realm/" + strings.Replace(storage.URL, "://", "/", 1) + "/x", "", true},
		"by another protocol":            {"ftp://storage.test/x", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			v := &vault{username: "u", password: "p"}
			plain := uploads(tc.location, take)
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if _, _, ok := r.BasicAuth(); !ok {
					challengeBasic(w)
					return
				}
				plain(w, r)
			})
			storage.mu.Lock()
			storage.requests = nil
			storage.mu.Unlock()
			c := configFor(s)
			c.Credentials = v
			kept, desc := keep(t, body)
			err := open(t, Options{}, c).PushBlob(t.Context(), app, desc, kept.Open)
			if tc.at == "" {
				if !errors.Is(err, oci.ErrUnavailable) || len(storage.asked()) != 0 {
					t.Fatalf("got %v and %q at the storage, want %v and nothing", err, storage.asked(), oci.ErrUnavailable)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			at := storage
			if tc.signed {
				at = s
			}
			last := at.requests[len(at.requests)-1]
			if got := last.Method + " " + last.URL.RequestURI(); got != "PUT "+tc.at || last.ContentLength != int64(len(body)) {
				t.Errorf("got %s with %d bytes, want PUT %s with %d", got, last.ContentLength, tc.at, len(body))
			}
			if _, _, signed := last.BasicAuth(); signed != tc.signed {
				t.Errorf("got credentials: %t, want %t", signed, tc.signed)
			}
		})
	}
}

// A blob may be sent again when it is known that it did not arrive, and no more often than that helps.
func TestPushBlobAgain(t *testing.T) {
	body := content(200_000)
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
		}
	}
	for name, tc := range map[string]struct {
		puts  []http.HandlerFunc
		want  error
		opens int32
	}{
		"after a cut":               {[]http.HandlerFunc{cut, take}, nil, 2},
		"after an outage":           {[]http.HandlerFunc{status(503), status(500), take}, nil, 3},
		"but not for ever":          {[]http.HandlerFunc{cut}, oci.ErrUnavailable, 1 + maxRetries},
		"not when it is refused":    {[]http.HandlerFunc{status(400)}, oci.ErrUnavailable, 1},
		"not when it is forbidden":  {[]http.HandlerFunc{status(403)}, oci.ErrUnauthorized, 1},
		"not when it is limited":    {[]http.HandlerFunc{status(429)}, oci.ErrRateLimited, 1},
		"not when it is not asked":  {[]http.HandlerFunc{status(200)}, oci.ErrUnavailable, 1},
		"not when it is unknown":    {[]http.HandlerFunc{status(404)}, &oci.Error{Code: oci.CodeNameUnknown}, 1},
		"not when it is redirected": {[]http.HandlerFunc{status(307)}, oci.ErrUnavailable, 1},
		"not when it is another's": {[]http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", oci.FromBytes(nil).String())
			take(w, r)
		}}, oci.ErrMismatch, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var puts atomic.Int32
			s := serve(t, uploads("/v2/team/app/blobs/uploads/1", func(w http.ResponseWriter, r *http.Request) {
				tc.puts[min(int(puts.Add(1)), len(tc.puts))-1](w, r)
			}))
			kept, desc := keep(t, body)
			seen := &events{}
			err := open(t, Options{Observe: seen.observe}, configFor(s)).PushBlob(t.Context(), app, desc, kept.Open)
			if !errors.Is(err, tc.want) || kept.opened.Load() != tc.opens {
				t.Errorf("got %v after opening it %d times, want %v after %d", err, kept.opened.Load(), tc.want, tc.opens)
			}
			if got := seen.seen(); len(got) != 1 || got[0].Kind != KindPush || (got[0].Outcome == OutcomeOK) != (tc.want == nil) {
				t.Errorf("got events %v, want one push", got)
			}
		})
	}
	t.Run("not when it arrived although the answer was lost", func(t *testing.T) {
		r, rs := registryOf(t, ocitest.Options{}, nil)
		kept, desc := keep(t, body)
		r.SetIntercept(ocitest.First(1, func(c ocitest.Request) bool { return c.Method == http.MethodPut }, func(http.ResponseWriter, *http.Request) bool {
			r.PutBlob(app.Path, body)
			panic(http.ErrAbortHandler)
		}))
		if err := rs.PushBlob(t.Context(), app, desc, kept.Open); err != nil || kept.opened.Load() != 1 {
			t.Errorf("got %v after opening it %d times, want none after one", err, kept.opened.Load())
		}
	})
}

// What is wrong on our side is said as it is, is not tried again, and is not held against the registry.
func TestPushBlobThatCannotBeRead(t *testing.T) {
	errDisk := errors.New("the disk is gone")
	body := content(100_000)
	desc := oci.Descriptor{Digest: oci.FromBytes(body), Size: int64(len(body))}
	for name, tc := range map[string]struct {
		open func() (io.ReadCloser, error)
		want error
	}{
		"it does not open": {func() (io.ReadCloser, error) { return nil, errDisk }, errDisk},
		"it breaks off": {func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(body[:10]), iotest.ErrReader(errDisk))), nil
		}, errDisk},
		"it is too short":  {func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body[1:])), nil }, oci.ErrMismatch},
		"it is too long":   {func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(append(body, 0))), nil }, oci.ErrMismatch},
		"it is not itself": {func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(make([]byte, len(body)))), nil }, oci.ErrMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			r, rs := registryOf(t, ocitest.Options{}, nil)
			for range breakerThreshold + 1 {
				if err := rs.PushBlob(t.Context(), app, desc, tc.open); !errors.Is(err, tc.want) {
					t.Fatalf("got %v, want %v", err, tc.want)
				}
			}
			if _, ok := r.Blob(app.Path, desc.Digest); ok {
				t.Error("it was pushed all the same")
			}
		})
	}
}

func TestPushToNobody(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {})
	c := configFor(s)
	c.Allow = []string{} // which is about clients
	rs := open(t, Options{}, c)
	m := oci.Content{MediaType: oci.MediaTypeImage, Digest: imageDescriptor.Digest, Raw: []byte(image)}
	for name, tc := range map[string]struct {
		repo oci.Repository
		want error
	}{
		"an upstream that is not configured": {oci.Repository{Upstream: "other.test", Path: "app"}, &oci.Error{Code: oci.CodeDenied}},
		"a repository that is none":          {oci.Repository{Upstream: app.Upstream, Path: "../app"}, oci.ErrNameInvalid},
	} {
		kept, desc := keep(t, nil)
		for call, err := range map[string]error{
			"HasBlob": rs.HasBlob(t.Context(), tc.repo, desc), "PushBlob": rs.PushBlob(t.Context(), tc.repo, desc, kept.Open),
			"HasManifest": rs.HasManifest(t.Context(), tc.repo, m.Digest), "PushManifest": rs.PushManifest(t.Context(), tc.repo, "latest", m),
		} {
			if !errors.Is(err, tc.want) {
				t.Errorf("%s to %s: got %v, want %v", call, name, err, tc.want)
			}
		}
	}
	kept, desc := keep(t, nil)
	desc.Digest = "sha256:x"
	if err := rs.PushBlob(t.Context(), app, desc, kept.Open); !errors.Is(err, oci.ErrDigestInvalid) {
		t.Errorf("got %v, want %v", err, oci.ErrDigestInvalid)
	}
	if got := s.asked(); got != nil {
		t.Errorf("got requests %q, want none", got)
	}
}

// A registry that takes nothing is left alone with pushes, and goes on being pulled from.
func TestPushesHaveABreakerOfTheirOwn(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			writeManifest(w, image)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	})
	rs := open(t, Options{Now: newClock().Now}, configFor(s))
	kept, desc := keep(t, content(10))
	for range breakerThreshold + 3 {
		if err := rs.PushBlob(t.Context(), app, desc, kept.Open); !errors.Is(err, oci.ErrUnavailable) {
			t.Fatalf("got %v, want %v", err, oci.ErrUnavailable)
		}
	}
	if got := len(s.asked()); got != breakerThreshold {
		t.Errorf("got %d requests to push, want %d", got, breakerThreshold)
	}
	if _, err := rs.Manifest(t.Context(), app, "latest"); err != nil {
		t.Errorf("got %v from pulling, want none", err)
	}
}

// Pushes go to the registry itself, whoever else has what it has.
func TestPushesIgnoreMirrors(t *testing.T) {
	mirror := serve(t, func(http.ResponseWriter, *http.Request) {})
	_, rs := registryOf(t, ocitest.Options{}, func(c *Config) { c.Mirrors = []string{mirror.URL} })
	kept, desc := keep(t, content(10))
	if err := rs.PushBlob(t.Context(), app, desc, kept.Open); err != nil {
		t.Fatal(err)
	}
	if got := mirror.asked(); got != nil {
		t.Errorf("got %q at the mirror, want nothing", got)
	}
}

// slowTransport takes nothing of what it is given, until it is told that nobody waits any longer.
type slowTransport struct{}

func (slowTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	_ = r.Body.Close()
	return nil, context.Cause(r.Context())
}

func TestUploadThatStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Config{Host: app.Upstream, URL: "https://registry.test"}
		s, err := c.parse()
		if err != nil {
			t.Fatal(err)
		}
		e := newEndpoint(s, s.url, slowTransport{}, Options{Now: time.Now, Log: slog.New(slog.DiscardHandler), Observe: func(Event) {}}, "pull", "push")
		body := content(10)
		desc := oci.Descriptor{Digest: oci.FromBytes(body), Size: int64(len(body))}
		started := time.Now()
		err = e.upload(t.Context(), app, desc, parsed(t, "https://registry.test/v2/team/app/blobs/uploads/1"), io.NopCloser(bytes.NewReader(body)))
		if took := time.Since(started); !errors.Is(err, oci.ErrUnavailable) || took != stallTimeout {
			t.Errorf("got %v after %s, want %v after %s", err, took, oci.ErrUnavailable, stallTimeout)
		}
	})
}

func TestCallerOfAPushLeaves(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	s := serve(t, uploads("/v2/team/app/blobs/uploads/1", func(_ http.ResponseWriter, r *http.Request) {
		leave()
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // which a server only watches over once it has read the body
	}))
	kept, desc := keep(t, content(1<<20))
	if err := open(t, Options{}, configFor(s)).PushBlob(ctx, app, desc, kept.Open); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if got := kept.opened.Load(); got != 1 {
		t.Errorf("opened %d times, want once", got)
	}
	if asked := s.asked(); !slices.Equal(asked, []string{"HEAD " + appBlob + desc.Digest.String(), "POST /v2/team/app/blobs/uploads/", "PUT /v2/team/app/blobs/uploads/1"}) {
		t.Errorf("got %q", asked)
	}
}
