package ocitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestOmitDigestHeader(t *testing.T) {
	r := start(t, Options{OmitDigestHeader: true})
	desc := push(t, r, "app", "v1", Image{})
	for _, path := range []string{"manifests/v1", "manifests/" + desc.Digest.String()} {
		a := ask(t, "HEAD", r.URL()+"/v2/app/"+path, nil).want(t, 200)
		if got := a.header.Get("Docker-Content-Digest"); got != "" {
			t.Errorf("%s tells its digest %s", path, got)
		}
	}
}

func TestRedirectBlobs(t *testing.T) {
	r := start(t, Options{RedirectBlobs: true})
	blob := r.PutBlob("team/app", []byte("0123456789"))
	url := r.URL() + "/v2/team/app/blobs/" + blob.Digest.String()
	ask(t, "HEAD", url, nil).want(t, 200)
	location := ask(t, "GET", url, nil).want(t, 307).header.Get("Location")
	got := ask(t, "GET", location, nil, "Range: bytes=4-5").want(t, 206)
	if string(got.body) != "45" {
		t.Errorf("the storage serves %q", got.body)
	}
	ask(t, "GET", "http://"+r.StorageHost()+"/v2/", nil).want(t, 404)
	if got, want := r.Count("GET", KindStorage), 1; got != want {
		t.Errorf("%d requests to the storage, want %d", got, want)
	}
	last := r.Requests()[2]
	if last.Listener != "storage" || last.Repo != "team/app" || last.Reference != blob.Digest.String() || last.Status != 206 {
		t.Errorf("recorded as %+v", last)
	}
}

func TestStatus(t *testing.T) {
	type facts struct {
		Status     int
		RetryAfter string
		Code       string
	}
	for _, tt := range []struct {
		name      string
		intercept Intercept
		want      []facts // of one GET after the other
	}{
		{"a rate limit", Status(429, 7*time.Second, "slow down"), []facts{{429, "7", "TOOMANYREQUESTS"}, {429, "7", "TOOMANYREQUESTS"}}},
		{"an outage that ends", First(2, Gets(KindManifest), Status(503, 0, "down")), []facts{{503, "", "UNAVAILABLE"}, {503, "", "UNAVAILABLE"}, {200, "", ""}}},
		{"another kind is let through", When(Gets(KindBlob), Status(503, 0, "down")), []facts{{200, "", ""}}},
		{"another reference is let through", When(Reads(KindManifest).Of("v2"), Status(403, 0, "no")), []facts{{200, "", ""}}},
		{"the first that answers", Chain(When(Gets(KindBlob), Status(500, 0, "")), Status(403, 0, "no"), Status(404, 0, "")), []facts{{403, "", "DENIED"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := start(t, Options{})
			push(t, r, "app", "v1", Image{})
			r.SetIntercept(tt.intercept)
			var got []facts
			for range tt.want {
				a := ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil)
				got = append(got, facts{a.status, a.header.Get("Retry-After"), a.code()})
			}
			if diff := cmp.Diff(got, tt.want); diff != "" {
				t.Errorf("(-got +want)\n%s", diff)
			}
			if last := r.Requests()[len(tt.want)-1]; last.Status != tt.want[len(tt.want)-1].Status {
				t.Errorf("recorded as %d", last.Status)
			}
		})
	}
}

func TestShortBody(t *testing.T) {
	r := start(t, Options{})
	body := Random(100_000, 1)
	blob := r.PutBlob("app", body)
	url := r.URL() + "/v2/app/blobs/" + blob.Digest.String()
	r.SetIntercept(First(1, Gets(KindBlob), ShortBody("application/octet-stream", body, 60_000)))
	got, err := try(t, "GET", url, nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got.body, body[:60_000]) {
		t.Errorf("%d bytes and %v, want 60000 and a broken connection", len(got.body), err)
	}
	rest := ask(t, "GET", url, nil, "Range: bytes=60000-").want(t, 206)
	if !bytes.Equal(rest.body, body[60_000:]) {
		t.Error("the rest is not the rest")
	}
}

func TestRedirect(t *testing.T) {
	r := start(t, Options{})
	r.SetIntercept(When(Gets(KindBlob), Redirect("http://169.254.169.254/latest")))
	got := ask(t, "GET", r.URL()+"/v2/app/blobs/sha256:0", nil).want(t, 307).header.Get("Location")
	if want := "http://169.254.169.254/latest"; got != want {
		t.Errorf("redirected to %q, want %q", got, want)
	}
	ask(t, "HEAD", r.URL()+"/v2/app/blobs/sha256:0", nil).want(t, 400)
}

func TestBody(t *testing.T) {
	r := start(t, Options{})
	push(t, r, "app", "v1", Image{})
	r.SetIntercept(When(Reads(KindManifest), Body("text/html", []byte("<h1>sign in</h1>"))))
	got := ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil).want(t, 200)
	if string(got.body) != "<h1>sign in</h1>" || got.header.Get("Docker-Content-Digest") != "" {
		t.Errorf("got %q %v", got.body, got.header)
	}
	head := ask(t, "HEAD", r.URL()+"/v2/app/manifests/v1", nil).want(t, 200)
	if got, want := head.header.Get("Content-Length"), "16"; got != want {
		t.Errorf("HEAD tells length %q, want %q", got, want)
	}
	r.SetIntercept(nil)
	if got := ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil); got.header.Get("Content-Type") != oci.MediaTypeImage {
		t.Errorf("still intercepted: %v", got.header)
	}
}

func TestStall(t *testing.T) {
	r := start(t, Options{})
	push(t, r, "app", "v1", Image{})
	ctx, release := context.WithCancel(t.Context())
	arrived := make(chan struct{})
	r.SetIntercept(When(Gets(KindManifest), Stall(ctx, arrived)))
	done := make(chan answered, 1)
	go func() { done <- ask(t, "GET", r.URL()+"/v2/app/manifests/v1", nil) }()
	<-arrived
	if got := r.Requests()[0]; got.Status != 0 {
		t.Errorf("answered with %d while stalled", got.Status)
	}
	ask(t, "HEAD", r.URL()+"/v2/app/manifests/v1", nil).want(t, 200)
	release()
	if got := <-done; got.status != 200 {
		t.Errorf("status %d after the release", got.status)
	}
}

func TestCloseBreaksOffWhatIsStalled(t *testing.T) {
	r := start(t, Options{})
	arrived := make(chan struct{})
	r.SetIntercept(Stall(context.Background(), arrived))
	done := make(chan error, 1)
	go func() {
		_, err := try(t, "GET", r.URL()+"/v2/", nil)
		done <- err
	}()
	<-arrived
	r.Close()
	if err := <-done; err == nil {
		t.Error("a stalled request was answered")
	}
}

func TestMoveTagAfterHead(t *testing.T) {
	r := start(t, Options{})
	old := push(t, r, "app", "v1", Image{})
	next := push(t, r, "app", "", Image{Annotations: map[string]string{"evil": "yes"}})
	r.SetIntercept(r.MoveTagAfterHead("app", "v1", next.Digest))
	digest := func(method string) string {
		return ask(t, method, r.URL()+"/v2/app/manifests/v1", nil).want(t, 200).header.Get("Docker-Content-Digest")
	}
	got := []string{digest("GET"), digest("HEAD"), digest("GET"), digest("HEAD")}
	want := []string{old.Digest.String(), old.Digest.String(), next.Digest.String(), next.Digest.String()}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want)\n%s", diff)
	}
}

func TestEndlessPages(t *testing.T) {
	r := start(t, Options{})
	r.SetIntercept(When(Gets(KindTags), EndlessPages("application/json", `{"name":"app","tags":[]}`)))
	seen := map[string]bool{}
	path := "/v2/app/tags/list"
	for range 5 {
		link := ask(t, "GET", r.URL()+path, nil).want(t, 200).header.Get("Link")
		if seen[link] || link == "" {
			t.Fatalf("link %q after %d pages", link, len(seen))
		}
		seen[link] = true
		path = link[1 : len(link)-len(`>; rel="next"`)]
	}
}

// flusher is a client that notes when it got what.
type flusher struct {
	http.ResponseWriter // nil: headers are not asked for
	start               time.Time
	got                 map[time.Duration]int
}

func (f *flusher) Write(p []byte) (int, error) {
	f.got[time.Since(f.start)] += len(p)
	return len(p), nil
}

func (f *flusher) FlushError() error { return nil }

func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flusher{start: time.Now(), got: map[time.Duration]int{}}
		p := newPacer(t.Context(), f, 1000)
		for range 5 { // the rate does not depend on how the body is cut
			if n, err := p.Write(make([]byte, 50)); n != 50 || err != nil {
				t.Fatalf("wrote %d: %v", n, err)
			}
		}
		want := map[time.Duration]int{paceStep: 100, 2 * paceStep: 100, 3 * paceStep: 50}
		if diff := cmp.Diff(f.got, want); diff != "" {
			t.Errorf("bytes by time (-got +want)\n%s", diff)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n, err := newPacer(ctx, f, 1000).Write(make([]byte, 10)); n != 0 || !errors.Is(err, context.Canceled) {
			t.Errorf("wrote %d to a client that has gone: %v", n, err)
		}
	})
	t.Run("a paced blob is whole", func(t *testing.T) {
		r := start(t, Options{BytesPerSecond: 1 << 20})
		body := Random(150_000, 2)
		blob := r.PutBlob("app", body)
		if got := ask(t, "GET", r.URL()+"/v2/app/blobs/"+blob.Digest.String(), nil).want(t, 200); !bytes.Equal(got.body, body) {
			t.Errorf("%d other bytes", len(got.body))
		}
	})
}
