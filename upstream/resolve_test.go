package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

var imageDescriptor = oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte(image)), Size: int64(len(image))}

func TestResolve(t *testing.T) {
	other := oci.FromBytes([]byte("other")).String()
	digest := imageDescriptor.Digest.String()
	// head answers HEAD with these headers, and GET with the image.
	head := func(contentType, dgst string, length int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				writeManifest(w, image)
				return
			}
			w.Header()["Content-Type"] = []string{contentType}
			if dgst != "" {
				w.Header().Set("Docker-Content-Digest", dgst)
			}
			if length >= 0 {
				w.Header().Set("Content-Length", strconv.Itoa(length))
			}
		}
	}
	tests := map[string]struct {
		handler   http.HandlerFunc
		reference string
		want      oci.Descriptor
		wantErr   error
		requests  []string
	}{
		"a tag":                        {head(oci.MediaTypeImage, digest, len(image)), "latest", imageDescriptor, nil, []string{"HEAD"}},
		"a tag, with a dishonest size": {head(oci.MediaTypeImage, digest, 7), "latest", oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: imageDescriptor.Digest, Size: 7}, nil, []string{"HEAD"}},
		"a tag, without a digest":      {head(oci.MediaTypeImage, "", len(image)), "latest", imageDescriptor, nil, []string{"HEAD", "GET"}},
		"a tag, malformed digest":      {head(oci.MediaTypeImage, "sha256:zz", len(image)), "latest", imageDescriptor, nil, []string{"HEAD", "GET"}},
		"a tag, without a length":      {head(oci.MediaTypeImage, digest, -1), "latest", imageDescriptor, nil, []string{"HEAD", "GET"}},
		"a tag, of no particular type": {head("application/json", digest, len(image)), "latest", imageDescriptor, nil, []string{"HEAD", "GET"}},
		"a digest":                     {head(oci.MediaTypeImage, digest, len(image)), digest, imageDescriptor, nil, []string{"HEAD"}},
		"a digest, without saying so":  {head(oci.MediaTypeImage, "", len(image)), digest, imageDescriptor, nil, []string{"HEAD"}},
		"a digest, as another":         {head(oci.MediaTypeImage, other, len(image)), digest, oci.Descriptor{}, oci.ErrMismatch, []string{"HEAD"}},
		"a digest, read as another":    {head("", "", len(image)), other, oci.Descriptor{}, oci.ErrMismatch, []string{"HEAD", "GET"}},
		"missing":                      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "latest", oci.Descriptor{}, oci.ErrNotFound, []string{"HEAD"}},
		"not for us":                   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, "latest", oci.Descriptor{}, oci.ErrUnauthorized, []string{"HEAD"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			got, err := open(t, Options{}, configFor(s)).Resolve(t.Context(), app, tc.reference)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("got %v, want %v", err, tc.wantErr)
			}
			if diff := cmp.Diff(got.Descriptor, tc.want); diff != "" || got.Stale {
				t.Errorf("got stale %t; got, want:\n%s", got.Stale, diff)
			}
			var want []string
			for _, method := range tc.requests {
				want = append(want, method+" "+appManifest+tc.reference)
			}
			if diff := cmp.Diff(s.asked(), want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

// tagServer answers HEAD with what a tag stands for now, or with a status instead.
type tagServer struct {
	*server
	body   atomic.Value // string
	status atomic.Int32
}

func newTagServer(t *testing.T) *tagServer {
	s := &tagServer{}
	s.body.Store(image)
	s.server = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if status := s.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		body, _ := s.body.Load().(string)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		writeManifest(w, body)
	})
	return s
}

func TestTagIsAskedForOncePerTTL(t *testing.T) {
	s, c := newTagServer(t), newClock()
	config := configFor(s.server)
	config.TagTTL = time.Minute
	rs := open(t, Options{Now: c.Now}, config)
	asked := c.Now()
	steps := []struct {
		law      string
		pass     time.Duration
		body     string
		want     string
		wantAt   time.Time
		requests int
	}{
		{"at first", 0, image, image, asked, 1},
		{"at once again", 0, image + " ", image, asked, 1},
		{"within the TTL, though it moved", time.Minute - 1, image + " ", image, asked, 1},
		{"after the TTL", 1, image + " ", image + " ", asked.Add(time.Minute), 2},
		{"within the next TTL", time.Second, image, image + " ", asked.Add(time.Minute), 2},
	}
	for _, step := range steps {
		c.advance(step.pass)
		s.body.Store(step.body)
		got, err := rs.Resolve(t.Context(), app, "latest")
		if err != nil {
			t.Fatalf("%s: %v", step.law, err)
		}
		want := Resolution{
			Descriptor: oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte(step.want)), Size: int64(len(step.want))},
			AskedAt:    step.wantAt,
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s: got, want:\n%s", step.law, diff)
		}
		if got := len(s.asked()); got != step.requests {
			t.Errorf("%s: got %d requests, want %d", step.law, got, step.requests)
		}
	}
}

// A tag costs one HEAD when it is new, nothing within the TTL, and then one HEAD, without content in either direction if the upstream
// gives its answers names.
func TestTagIsRevalidated(t *testing.T) {
	const ttl = time.Minute
	digest := func(body string) string { return oci.FromBytes([]byte(body)).String() }
	moved := image + " "
	tests := map[string]struct {
		etag     func(body string) string
		spoil    func(http.Header) // of the first answer
		next     string            // what the tag stands for after the TTL
		want     []string          // If-None-Match of each request
		statuses []int
	}{
		"by the digest":           {func(b string) string { return `"` + digest(b) + `"` }, nil, image, []string{"", `"` + digest(image) + `"`}, []int{200, 304}},
		"by a weak entity tag":    {func(b string) string { return fmt.Sprintf("W/\"%d\"", len(b)) }, nil, image, []string{"", fmt.Sprintf("W/\"%d\"", len(image))}, []int{200, 304}},
		"and has moved":           {func(b string) string { return `"` + digest(b) + `"` }, nil, moved, []string{"", `"` + digest(image) + `"`}, []int{200, 200}},
		"without an entity tag":   {func(string) string { return "" }, nil, image, []string{"", ""}, []int{200, 200}},
		"with one that is a book": {func(string) string { return `"` + strings.Repeat("x", maxETagBytes) + `"` }, nil, image, []string{"", ""}, []int{200, 200}},
		"with one that was not of what was read": {
			func(string) string { return `"x"` }, func(h http.Header) { h.Del("Docker-Content-Digest") }, image, []string{"", "", ""}, []int{200, 200, 200},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			body, statuses := image, []int(nil) // requests come one after the other
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if etag := tc.etag(body); etag != "" {
					w.Header().Set("ETag", etag)
				}
				w.Header().Set("Content-Type", oci.MediaTypeImage)
				w.Header().Set("Docker-Content-Digest", digest(body))
				if tc.spoil != nil && len(statuses) == 0 {
					tc.spoil(w.Header())
				}
				status := http.StatusOK
				if sent := r.Header.Get("If-None-Match"); sent != "" && sent == tc.etag(body) {
					status = http.StatusNotModified
				} else {
					w.Header().Set("Content-Length", strconv.Itoa(len(body)))
				}
				statuses = append(statuses, status)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body)
			})
			c := newClock()
			config := configFor(s)
			config.TagTTL = ttl
			rs := open(t, Options{Now: c.Now}, config)
			resolve := func(want string) {
				t.Helper()
				got, err := rs.Resolve(t.Context(), app, "latest")
				if err != nil || got.Descriptor.Digest != oci.FromBytes([]byte(want)) || got.AskedAt != c.Now() || got.Stale {
					t.Fatalf("got %v, %v, want %s as of %s", got, err, digest(want), c.Now())
				}
			}
			resolve(image)
			cold := len(s.asked())
			resolve(image)
			if got := len(s.asked()); got != cold {
				t.Errorf("got %d requests while it was warm, want none", got-cold)
			}
			c.advance(ttl)
			body = tc.next
			resolve(tc.next)
			if got := len(s.asked()); got != cold+1 {
				t.Errorf("got %d requests to revalidate, want 1", got-cold)
			}
			resolve(tc.next)
			if diff := cmp.Diff(s.headers("If-None-Match"), tc.want); diff != "" {
				t.Errorf("If-None-Match: got, want:\n%s", diff)
			}
			if diff := cmp.Diff(statuses, tc.statuses); diff != "" {
				t.Errorf("statuses: got, want:\n%s", diff)
			}
		})
	}
}

// An entity tag means something to whoever gave it, and to nobody else.
func TestEntityTagOfAMirrorIsNotShownToTheRegistry(t *testing.T) {
	var down atomic.Bool
	answer := func(etag string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if down.Load() && etag == `"mirror"` {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.Header().Set("ETag", etag)
			w.Header().Set("Content-Length", strconv.Itoa(len(image)))
			writeManifest(w, image)
		}
	}
	mirror, s, c := serve(t, answer(`"mirror"`)), serve(t, answer(`"registry"`)), newClock()
	config := configFor(s)
	config.Mirrors = []string{mirror.URL}
	rs := open(t, Options{Now: c.Now}, config)
	for range 3 {
		if _, err := rs.Resolve(t.Context(), app, "latest"); err != nil {
			t.Fatal(err)
		}
		down.Store(true)
	}
	if diff := cmp.Diff(mirror.headers("If-None-Match"), []string{"", `"mirror"`, ""}); diff != "" {
		t.Errorf("the mirror got, want:\n%s", diff)
	}
	if diff := cmp.Diff(s.headers("If-None-Match"), []string{"", `"registry"`}); diff != "" {
		t.Errorf("the registry got, want:\n%s", diff)
	}
}

// "Not modified" is an answer only to who asked whether it is.
func TestNotModifiedOutOfTheBlue(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	rs := open(t, Options{}, configFor(s))
	if got, err := rs.Resolve(t.Context(), app, "latest"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("got %v, %v, want %v", got, err, oci.ErrUnavailable)
	}
	if got, err := rs.Manifest(t.Context(), app, "latest"); !errors.Is(err, oci.ErrUnavailable) {
		t.Errorf("got %v, %v, want %v", got, err, oci.ErrUnavailable)
	}
}

func TestTagWithoutTTLIsAskedForEachTime(t *testing.T) {
	s := newTagServer(t)
	rs := open(t, Options{}, configFor(s.server))
	for range 3 {
		if _, err := rs.Resolve(t.Context(), app, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(s.asked()); got != 3 {
		t.Errorf("got %d requests, want 3", got)
	}
}

func TestDigestIsAskedForOnce(t *testing.T) {
	s := newTagServer(t)
	rs := open(t, Options{}, configFor(s.server))
	for range 3 {
		if _, err := rs.Resolve(t.Context(), app, imageDescriptor.Digest.String()); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(s.asked()); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

func TestTagIsAskedForOnceHoweverManyWant(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived) // a second request would panic here
		<-release
		w.Header().Set("Content-Length", strconv.Itoa(len(image)))
		writeManifest(w, image)
	})
	config := configFor(s)
	config.TagTTL = time.Hour
	rs := open(t, Options{}, config)

	// Whoever asks first leaves before there is an answer, which is not to disturb the others.
	first, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := rs.Resolve(first, app, "latest")
		gone <- err
	}()
	<-arrived
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v for whoever left, want %v", err, context.Canceled)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			got, err := rs.Resolve(t.Context(), app, "latest")
			if err != nil || got.Descriptor.Digest != imageDescriptor.Digest {
				t.Errorf("got %v, %v, want %s", got, err, imageDescriptor.Digest)
			}
		})
	}
	close(release)
	wg.Wait()
	if got := len(s.asked()); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

func TestStaleTags(t *testing.T) {
	const ttl, stale = time.Minute, time.Hour
	tests := map[string]struct {
		staleFor time.Duration
		age      time.Duration // of the answer when the upstream fails
		status   int32
		want     error // nil for a stale answer
	}{
		"down":                        {stale, ttl, 500, nil},
		"limited":                     {stale, ttl, 429, nil},
		"down, to the last moment":    {stale, ttl + stale - 1, 503, nil},
		"down for too long":           {stale, ttl + stale, 500, oci.ErrUnavailable},
		"limited for too long":        {stale, ttl + stale, 429, oci.ErrRateLimited},
		"down, not configured":        {0, ttl, 500, oci.ErrUnavailable},
		"gone":                        {stale, ttl, 404, oci.ErrNotFound},
		"refused":                     {stale, ttl, 403, oci.ErrUnauthorized},
		"answered in an odd way":      {stale, ttl, 418, oci.ErrUnavailable},
		"within the TTL nobody looks": {stale, ttl - 1, 500, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s, c := newTagServer(t), newClock()
			config := configFor(s.server)
			config.TagTTL, config.StaleTagsFor = ttl, tc.staleFor
			rs := open(t, Options{Now: c.Now}, config)
			asked := c.Now()
			if _, err := rs.Resolve(t.Context(), app, "latest"); err != nil {
				t.Fatal(err)
			}
			c.advance(tc.age)
			s.status.Store(tc.status)
			got, err := rs.Resolve(t.Context(), app, "latest")
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			want := Resolution{}
			if tc.want == nil {
				want = Resolution{Descriptor: imageDescriptor, AskedAt: asked, Stale: tc.age >= ttl}
			}
			if diff := cmp.Diff(got, want); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

// A tag that was deleted does not come back because the upstream goes down afterwards.
func TestDeletedTagIsForgotten(t *testing.T) {
	for _, gone := range []int32{http.StatusNotFound, http.StatusUnauthorized} {
		s, c := newTagServer(t), newClock()
		config := configFor(s.server)
		config.TagTTL, config.StaleTagsFor = time.Minute, time.Hour
		rs := open(t, Options{Now: c.Now}, config)
		for _, status := range []int32{0, gone, http.StatusInternalServerError} {
			s.status.Store(status)
			_, err := rs.Resolve(t.Context(), app, "latest")
			if (err == nil) != (status == 0) {
				t.Errorf("status %d after %d: got %v", status, gone, err)
			}
			c.advance(time.Minute)
		}
	}
}

// An upstream that was found to be down is not asked before an old answer is given.
func TestStaleTagWhileTheBreakerIsOpen(t *testing.T) {
	s, c := newTagServer(t), newClock()
	config := configFor(s.server)
	config.StaleTagsFor = time.Hour
	rs := open(t, Options{Now: c.Now}, config)
	if _, err := rs.Resolve(t.Context(), app, "latest"); err != nil {
		t.Fatal(err)
	}
	s.status.Store(http.StatusInternalServerError)
	for range breakerThreshold + 5 {
		if got, err := rs.Resolve(t.Context(), app, "latest"); err != nil || !got.Stale {
			t.Fatalf("got %v, %v, want a stale answer", got, err)
		}
	}
	if got, want := len(s.asked()), 1+breakerThreshold; got != want {
		t.Errorf("got %d requests, want %d", got, want)
	}
}
