package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// send is do with a body.
func (f *fixture) send(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	return f.sendFrom(method, target, strings.NewReader(body), headers...)
}

func (f *fixture) sendFrom(method, target string, body io.Reader, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	r := httptest.NewRequest(method, target, body)
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	f.proxy.ServeHTTP(w, r)
	return w
}

func signatureOf(subject oci.Digest) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[],`+
		`"subject":{"mediaType":%q,"digest":%q,"size":7}}`,
		oci.MediaTypeImage, oci.MediaTypeSigstoreBundle, oci.MediaTypeEmpty, oci.FromBytes([]byte("{}")), oci.MediaTypeImage, subject)
}

func TestPutManifest(t *testing.T) {
	subject := oci.FromBytes([]byte("subject"))
	signature, stray := signatureOf(subject), signatureOf(oci.FromBytes([]byte("absent")))
	tagOf := "sha256-" + subject.Encoded()
	byDigest := func(body string) string { return oci.FromBytes([]byte(body)).String() }
	missing := &oci.Error{Code: oci.CodeManifestBlobUnknown, Message: "blobs are missing"}
	for _, tt := range []struct {
		law, who, reference, body, mediaType string
		fails                                error
		want                                 int
		wantCode                             oci.Code
		wantRecord                           string
	}{
		{"by tag", "ci", "v1", emptyIndex, oci.MediaTypeIndex, nil, 201, "", "user:ci push apps/web true"},
		{"by tag, with parameters in the type", "ci", "v1", emptyIndex, oci.MediaTypeIndex + "; charset=utf-8", nil, 201, "", "user:ci push apps/web true"},
		{"by digest", "ci", byDigest(emptyIndex), emptyIndex, oci.MediaTypeIndex, nil, 201, "", "user:ci push apps/web true"},
		{"a signature", "ci", byDigest(signature), signature, oci.MediaTypeImage, nil, 201, "", "user:ci push apps/web true"},
		{"a signature by a signer", "signer", byDigest(signature), signature, oci.MediaTypeImage, nil, 201, "", "user:signer sign apps/web true"},
		{"the fallback tag by a signer", "signer", tagOf, emptyIndex, oci.MediaTypeIndex, nil, 201, "", "user:signer sign apps/web true"},
		{"a tag of signatures by a signer", "signer", tagOf + ".sig", signature, oci.MediaTypeImage, nil, 201, "", "user:signer sign apps/web true"},
		{"a signer moves no tag", "signer", "v1", emptyIndex, oci.MediaTypeIndex, nil, 403, oci.CodeDenied, "user:signer push apps/web false"},
		{"a signer moves no tag, not with a subject either", "signer", "v1", signature, oci.MediaTypeImage, nil, 403, oci.CodeDenied, "user:signer push apps/web false"},
		{"a signer adds nothing without a subject", "signer", byDigest(emptyIndex), emptyIndex, oci.MediaTypeIndex, nil, 403, oci.CodeDenied, "user:signer push apps/web false"},
		{"a signer adds nothing to what is not there", "signer", byDigest(stray), stray, oci.MediaTypeImage, nil, 403, oci.CodeDenied, "user:signer sign apps/web true"},
		{"nor under its tag", "signer", strings.Replace(byDigest("absent"), ":", "-", 1) + ".sig", signature, oci.MediaTypeImage, nil, 403, oci.CodeDenied, "user:signer sign apps/web true"},
		{"whoever pushes may begin with the signature", "ci", byDigest(stray), stray, oci.MediaTypeImage, nil, 201, "", "user:ci push apps/web true"},
		{"whoever pulls does not push", "reader", "v1", emptyIndex, oci.MediaTypeIndex, nil, 403, oci.CodeDenied, "user:reader push apps/web false"},
		{"nobody pushes", "", "v1", emptyIndex, oci.MediaTypeIndex, nil, 401, oci.CodeUnauthorized, ""},
		{"not JSON", "ci", "v1", "nonsense", oci.MediaTypeIndex, nil, 400, oci.CodeManifestInvalid, ""},
		{"no type", "ci", "v1", emptyIndex, "", nil, 400, oci.CodeManifestInvalid, ""},
		{"another type", "ci", "v1", emptyIndex, oci.MediaTypeImage, nil, 400, oci.CodeManifestInvalid, ""},
		{"schema 1", "ci", "v1", `{"schemaVersion":1,"fsLayers":[]}`, "application/vnd.docker.distribution.manifest.v1+json", nil, 400, oci.CodeManifestInvalid, ""},
		{"image and index at once", "ci", "v1", `{"schemaVersion":2,"manifests":[],"layers":[]}`, oci.MediaTypeIndex, nil, 400, oci.CodeManifestInvalid, ""},
		{"too large", "ci", "v1", emptyIndex + strings.Repeat(" ", oci.MaxManifestBytes), oci.MediaTypeIndex, nil, 413, oci.CodeManifestInvalid, ""},
		{"blobs missing", "ci", "v1", emptyIndex, oci.MediaTypeIndex, missing, 404, oci.CodeManifestBlobUnknown, "user:ci push apps/web true"},
		{"a tag that must not move", "ci", "v1", emptyIndex, oci.MediaTypeIndex, &oci.Error{Code: oci.CodeDenied, Message: "immutable"}, 403, oci.CodeDenied, "user:ci push apps/web true"},
		{"another digest", "ci", byDigest("other"), emptyIndex, oci.MediaTypeIndex, oci.ErrDigestInvalid, 400, oci.CodeDigestInvalid, "user:ci push apps/web true"},
		{"a failure", "ci", "v1", emptyIndex, oci.MediaTypeIndex, errInternal, 503, oci.CodeUnavailable, "user:ci push apps/web true"},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f := newFixture(t)
			d := withDock(f)
			d.failures["put apps/web"] = tt.fails
			d.manifests[gate.Candidate{Repository: oci.Repository{Path: "apps/web"}, Digest: subject}] = oci.Content{Digest: subject}
			w := f.send("PUT", "/v2/apps/web/manifests/"+tt.reference, tt.body, append(as(tt.who), "Content-Type", tt.mediaType)...)
			if w.Code != tt.want || !strings.Contains(w.Body.String(), string(tt.wantCode)) {
				t.Fatalf("got %d %.300s, want %d %s", w.Code, w.Body, tt.want, tt.wantCode)
			}
			if got := strings.Join(f.door.allowed, "; "); got != tt.wantRecord {
				t.Errorf("on record: %q, want %q", got, tt.wantRecord)
			}
			if tt.want != 201 {
				return
			}
			digest := byDigest(tt.body)
			want := map[string]string{
				"Location": "/v2/apps/web/manifests/" + digest, "Docker-Content-Digest": digest, "Content-Length": "0", "Cache-Control": "no-store",
			}
			switch tt.body {
			case signature:
				want["OCI-Subject"] = subject.String()
			case stray:
				want["OCI-Subject"] = byDigest("absent")
			}
			got := checkedHeaders(t, w)
			if s, ok := got["Oci-Subject"]; ok {
				delete(got, "Oci-Subject")
				got["OCI-Subject"] = s
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestManifestThatBreaksOff(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	body := io.MultiReader(strings.NewReader(emptyIndex[:20]), errReader{})
	w := f.sendFrom("PUT", "/v2/apps/web/manifests/v1", body, append(as("ci"), "Content-Type", oci.MediaTypeIndex)...)
	if w.Code != 503 || len(d.calls) > 0 {
		t.Errorf("got %d, and did %v", w.Code, d.calls)
	}
}

// watched is a body that tells how much of it was read.
type watched struct {
	io.Reader
	read int
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

// TestLargeManifestsTakeTurns: each is held in memory, and anybody who may sign can send as many as there are connections.
func TestLargeManifestsTakeTurns(t *testing.T) {
	f := newFixture(t)
	withDock(f)
	large := strings.Replace(emptyIndex, "[]", "["+strings.Repeat(" ", smallManifestBytes)+"]", 1)
	put := func(ctx context.Context, body io.Reader) int {
		r := httptest.NewRequestWithContext(ctx, "PUT", "/v2/apps/web/manifests/v1", body)
		for pair := range slices.Chunk(append(as("ci"), "Content-Type", oci.MediaTypeIndex), 2) {
			r.Header.Set(pair[0], pair[1])
		}
		w := httptest.NewRecorder()
		f.proxy.ServeHTTP(w, r)
		return w.Code
	}
	for range 2 * maxLargeManifests { // and each gives its place back
		if got := put(t.Context(), strings.NewReader(large)); got != 201 {
			t.Fatalf("got %d, want 201", got)
		}
	}
	for range maxLargeManifests {
		f.proxy.large <- struct{}{}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	body := &watched{Reader: strings.NewReader(large)}
	if got := put(gone, body); got != 503 || body.read > smallManifestBytes {
		t.Errorf("with as many as there may be: got %d after %d bytes, want 503 and no more than %d", got, body.read, smallManifestBytes)
	}
	if got := put(t.Context(), strings.NewReader(emptyIndex)); got != 201 {
		t.Errorf("a small one: got %d, want 201", got)
	}
	<-f.proxy.large
	t.Run("and none may take its time", func(t *testing.T) {
		now := time.Now()
		f.proxy.o.Now = func() time.Time { return now }
		slow := io.MultiReader(strings.NewReader(large), readerFunc(func(p []byte) (int, error) {
			now = now.Add(time.Second)
			return copy(p, " "), nil
		}))
		if got := put(t.Context(), slow); got != 503 {
			t.Errorf("got %d, want 503", got)
		}
		if len(f.proxy.large) != maxLargeManifests-1 {
			t.Error("it keeps its place")
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestAnUploadNobodyCanGoOnWithIsNotKept: one that was begun and ended by the same request has no name its client knows.
func TestAnUploadNobodyCanGoOnWithIsNotKept(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	body := io.MultiReader(strings.NewReader("some"), errReader{})
	if w := f.sendFrom("POST", "/v2/apps/web/blobs/uploads/?digest="+oci.FromBytes([]byte("all")).String(), body, as("ci")...); w.Code != 503 {
		t.Errorf("got %d %s, want 503", w.Code, w.Body)
	}
	if len(d.uploads) > 0 {
		t.Errorf("%d uploads are kept", len(d.uploads))
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the connection is cut") }

// TestUploads goes through what each way of uploading is answered with.
func TestUploads(t *testing.T) {
	const blob = "0123456789"
	digest, path := oci.FromBytes([]byte(blob)).String(), "/v2/apps/web/blobs/uploads/"
	type step struct {
		method, target, body string
		headers              []string
		want                 int
		wantCode             oci.Code
		wantRange            string
	}
	ranged := func(r string) []string { return []string{"Content-Range", r} }
	for law, steps := range map[string][]step{
		"in one request": {{"POST", path + "?digest=" + digest, blob, nil, 201, "", ""}},
		"in two": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PUT", path + "s0?digest=" + digest, blob, nil, 201, "", ""},
		},
		"in a stream": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PATCH", path + "s0", blob, nil, 202, "", "0-9"},
			{"PUT", path + "s0?digest=" + digest, "", nil, 201, "", ""},
		},
		"in chunks": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PATCH", path + "s0", blob[:4], ranged("0-3"), 202, "", "0-3"},
			{"PATCH", path + "s0", blob[4:7], ranged("4-6"), 202, "", "0-6"},
			{"PUT", path + "s0?digest=" + digest, blob[7:], ranged("7-9"), 201, "", ""},
		},
		"resumed": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PATCH", path + "s0", blob[:4], ranged("0-3"), 202, "", "0-3"},
			{"GET", path + "s0", "", nil, 204, "", "0-3"},
			{"PATCH", path + "s0", blob[4:], ranged("4-9"), 202, "", "0-9"},
			{"PUT", path + "s0?digest=" + digest, "", nil, 201, "", ""},
		},
		"out of order": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PATCH", path + "s0", blob[4:], ranged("4-9"), 416, oci.CodeRangeInvalid, "0-0"},
			{"PATCH", path + "s0", blob[:4], ranged("0-3"), 202, "", "0-3"},
			{"PATCH", path + "s0", blob[:4], ranged("0-3"), 416, oci.CodeRangeInvalid, "0-3"},
			{"PUT", path + "s0?digest=" + digest, blob[5:], ranged("5-9"), 416, oci.CodeRangeInvalid, "0-3"},
			{"PUT", path + "s0?digest=" + digest, blob[4:], ranged("4-9"), 201, "", ""},
		},
		"cancelled": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"DELETE", path + "s0", "", nil, 204, "", ""},
			{"GET", path + "s0", "", nil, 404, oci.CodeBlobUploadUnknown, ""},
			{"DELETE", path + "s0", "", nil, 404, oci.CodeBlobUploadUnknown, ""},
			{"PATCH", path + "s0", blob, nil, 404, oci.CodeBlobUploadUnknown, ""},
			{"PUT", path + "s0?digest=" + digest, blob, nil, 404, oci.CodeBlobUploadUnknown, ""},
		},
		"another blob than announced": {{"POST", path + "?digest=" + digest, "other", nil, 400, oci.CodeDigestInvalid, ""}},
		"another algorithm":           {{"POST", path + "?digest=sha512:" + strings.Repeat("a", 128), blob, nil, 400, oci.CodeDigestInvalid, ""}},
		"a mount by another algorithm": {
			{"POST", path + "?from=apps/api&mount=sha512:" + strings.Repeat("a", 128), "", nil, 400, oci.CodeDigestInvalid, ""},
		},
		"no digest at the end": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PUT", path + "s0", blob, nil, 400, oci.CodeDigestInvalid, ""},
		},
		"ranges that are none": {
			{"POST", path, "", nil, 202, "", "0-0"},
			{"PATCH", path + "s0", blob, ranged("bytes 0-9/10"), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, ranged("9-0"), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, ranged("-9"), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, ranged("+0-9"), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, ranged("0-99999999999999999999"), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, append(ranged("0-9"), ranged("0-9")...), 400, oci.CodeBlobUploadInvalid, ""},
			{"PATCH", path + "s0", blob, ranged("0-3"), 400, oci.CodeSizeInvalid, ""},
			{"GET", path + "s0", "", nil, 204, "", "0-0"},
		},
	} {
		t.Run(law, func(t *testing.T) {
			f := newFixture(t)
			d := withDock(f)
			for i, s := range steps {
				w := f.send(s.method, s.target, s.body, append(as("ci"), s.headers...)...)
				if w.Code != s.want || !strings.Contains(w.Body.String(), string(s.wantCode)) || w.Header().Get("Range") != s.wantRange {
					t.Fatalf("step %d: got %d %s and %q, want %d %s and %q", i, w.Code, w.Body, w.Header().Get("Range"), s.want, s.wantCode, s.wantRange)
				}
				switch location := w.Header().Get("Location"); {
				case s.want == 201 && (location != "/v2/apps/web/blobs/"+digest || w.Header().Get("Docker-Content-Digest") != digest || d.blobs["apps/web@"+digest] != blob):
					t.Errorf("step %d: got %q, blobs %v", i, location, d.blobs)
				case s.want == 202 && location != path+"s0":
					t.Errorf("step %d: got %q", i, location)
				}
			}
		})
	}
}

func TestUploadsAreForThoseWhoPushOrSign(t *testing.T) {
	for who, want := range map[string]int{"ci": 202, "signer": 202, "reader": 403, "": 401} {
		f := newFixture(t)
		withDock(f)
		if w := f.do("POST", "/v2/apps/web/blobs/uploads/", as(who)...); w.Code != want {
			t.Errorf("%q: got %d, want %d", who, w.Code, want)
		}
		for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
			target := "/v2/apps/web/blobs/uploads/none?digest=" + oci.FromBytes(nil).String()
			want := map[int]int{202: 404, 403: 403, 401: 401}[want]
			if w := f.do(method, target, as(who)...); w.Code != want {
				t.Errorf("%q %s: got %d, want %d", who, method, w.Code, want)
			}
		}
	}
}
