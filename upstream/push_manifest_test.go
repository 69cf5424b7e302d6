package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// emptyDescriptor is of the content that configs of what is no image have.
var emptyDescriptor = oci.Descriptor{MediaType: oci.MediaTypeEmpty, Digest: oci.FromBytes([]byte("{}")), Size: 2}

// contentOf returns a manifest whose config is empty, with further fields.
func contentOf(t *testing.T, fields map[string]any) oci.Content {
	t.Helper()
	m := map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "config": emptyDescriptor, "layers": []oci.Descriptor{}}
	for key, value := range fields {
		m[key] = value
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}
}

func TestPushManifest(t *testing.T) {
	r, rs := registryOf(t, ocitest.Options{BearerAuth: &ocitest.Auth{Username: "ci", Password: "secret"}}, nil)
	r.PutBlob(app.Path, []byte("{}"))
	m := contentOf(t, nil)
	if err := rs.HasManifest(t.Context(), app, m.Digest); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("got %v before the push, want %v", err, oci.ErrNotFound)
	}
	r.ResetRequests()
	for _, reference := range []string{m.Digest.String(), "v1"} {
		if err := rs.PushManifest(t.Context(), app, reference, m); err != nil {
			t.Fatal(err)
		}
		if got, ok := r.Manifest(app.Path, reference); !ok || got.Digest != m.Digest || got.MediaType != m.MediaType {
			t.Errorf("%s: got %v, %t, want %s", reference, got, ok, m.Digest)
		}
	}
	if err := rs.HasManifest(t.Context(), app, m.Digest); err != nil {
		t.Errorf("got %v after the push, want none", err)
	}
	if diff := cmp.Diff(requested(r), []string{"PUT manifest", "PUT manifest", "HEAD manifest"}); diff != "" {
		t.Errorf("requests: got, want:\n%s", diff)
	}
}

// What a tag stands for is asked again once we have changed it.
func TestPushedTagIsNotRemembered(t *testing.T) {
	r, rs := registryOf(t, ocitest.Options{}, func(c *Config) { c.TagTTL = DefaultTagTTL })
	r.PutBlob(app.Path, []byte("{}"))
	for _, m := range []oci.Content{contentOf(t, nil), contentOf(t, map[string]any{"annotations": map[string]string{"a": "b"}})} {
		if err := rs.PushManifest(t.Context(), app, "v1", m); err != nil {
			t.Fatal(err)
		}
		if got, err := rs.Resolve(t.Context(), app, "v1"); err != nil || got.Descriptor.Digest != m.Digest {
			t.Errorf("got %v, %v, want %s", got, err, m.Digest)
		}
	}
}

func TestPushManifestThatIsRefused(t *testing.T) {
	m := contentOf(t, nil)
	other := contentOf(t, map[string]any{"annotations": map[string]string{"a": "b"}})
	taken := func(header, value string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(header, value)
			take(w, r)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for name, tc := range map[string]struct {
		handler   http.HandlerFunc // nil if it must not come to a request
		reference string
		content   oci.Content
		want      error
	}{
		"a tag that is none":           {nil, "a b", m, oci.ErrTagInvalid},
		"a digest that is none":        {nil, "sha256:x", m, oci.ErrDigestInvalid},
		"another's digest":             {nil, other.Digest.String(), m, oci.ErrMismatch},
		"content of another digest":    {nil, "v1", oci.Content{MediaType: m.MediaType, Digest: m.Digest, Raw: other.Raw}, oci.ErrMismatch},
		"content that is no manifest":  {nil, "v1", oci.Content{MediaType: m.MediaType, Digest: oci.FromBytes([]byte("x")), Raw: []byte("x")}, oci.ErrManifestInvalid},
		"content of another type":      {nil, "v1", oci.Content{MediaType: oci.MediaTypeIndex, Digest: m.Digest, Raw: m.Raw}, oci.ErrManifestInvalid},
		"taken for something else":     {taken("Docker-Content-Digest", other.Digest.String()), "v1", m, oci.ErrMismatch},
		"taken without a digest":       {taken("X-None", ""), "v1", m, nil},
		"forbidden":                    {status(http.StatusForbidden), "v1", m, oci.ErrUnauthorized},
		"limited":                      {status(http.StatusTooManyRequests), "v1", m, oci.ErrRateLimited},
		"out of order":                 {status(http.StatusInternalServerError), "v1", m, oci.ErrUnavailable},
		"not taken":                    {status(http.StatusBadRequest), "v1", m, oci.ErrUnavailable},
		"not there yet":                {status(http.StatusAccepted), "v1", m, oci.ErrUnavailable},
		"a repository to be made":      {status(http.StatusNotFound), "v1", m, &oci.Error{Code: oci.CodeNameUnknown}},
		"moved, where nobody looks up": {taken("Location", "/elsewhere"), "v1", m, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) { tc.handler(w, r) })
			err := open(t, Options{}, configFor(s)).PushManifest(t.Context(), app, tc.reference, tc.content)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			want := repeated("PUT "+appManifest+tc.reference, 1)
			if tc.handler == nil {
				want = nil
			}
			if diff := cmp.Diff(s.asked(), want); diff != "" {
				t.Errorf("requests: got, want:\n%s", diff)
			}
		})
	}
}

// A manifest is sent again at once after what is over in a moment: however often it arrives, it is the same.
func TestPushManifestAgain(t *testing.T) {
	r, rs := registryOf(t, ocitest.Options{}, nil)
	r.PutBlob(app.Path, []byte("{}"))
	m := contentOf(t, nil)
	r.SetIntercept(ocitest.First(1, func(c ocitest.Request) bool { return c.Method == http.MethodPut }, ocitest.Status(503, 0, "")))
	if err := rs.PushManifest(t.Context(), app, "v1", m); err != nil {
		t.Fatal(err)
	}
	if got, ok := r.Manifest(app.Path, "v1"); !ok || got.Digest != m.Digest {
		t.Errorf("got %v, %t, want %s", got, ok, m.Digest)
	}
}

// signatureOf returns a manifest that refers to imageDescriptor, and how a list of referrers has it.
func signatureOf(t *testing.T, n int) (oci.Content, oci.Descriptor) {
	t.Helper()
	annotations := map[string]string{"n": fmt.Sprint(n)}
	m := contentOf(t, map[string]any{"artifactType": oci.MediaTypeSigstoreBundle, "subject": imageDescriptor, "annotations": annotations})
	desc := m.Descriptor()
	desc.ArtifactType, desc.Annotations = oci.MediaTypeSigstoreBundle, annotations
	return m, desc
}

// A registry that keeps account of referrers is left to do so; for one that does not, the index under the fallback tag is extended.
func TestPushedReferrerIsListed(t *testing.T) {
	tag := ocitest.TagOf(imageDescriptor.Digest, "")
	for name, tc := range map[string]struct {
		noAPI bool
		want  []string
	}{
		"by the registry":   {false, []string{"PUT manifest"}},
		"by an index of us": {true, []string{"PUT manifest", "GET manifest", "PUT manifest", "GET manifest"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, rs := registryOf(t, ocitest.Options{NoReferrers: tc.noAPI}, nil)
			r.PutBlob(app.Path, []byte("{}"))
			var want []oci.Descriptor
			for n := range 3 {
				m, desc := signatureOf(t, n)
				want = append(want, desc)
				r.ResetRequests()
				if err := rs.PushManifest(t.Context(), app, m.Digest.String(), m); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(requested(r), tc.want); diff != "" {
					t.Errorf("requests: got, want:\n%s", diff)
				}
			}
			got, err := rs.Referrers(t.Context(), app, imageDescriptor.Digest)
			less := func(d []oci.Descriptor) map[oci.Digest]string {
				all := map[oci.Digest]string{}
				for _, d := range d {
					all[d.Digest] = d.ArtifactType + d.Annotations["n"]
				}
				return all
			}
			if diff := cmp.Diff(less(got), less(want)); err != nil || diff != "" {
				t.Errorf("got %v; referrers: got, want:\n%s", err, diff)
			}
			if _, ok := r.Manifest(app.Path, tag); ok != tc.noAPI {
				t.Errorf("an index under the fallback tag: got %t, want %t", ok, tc.noAPI)
			}
			m, _ := signatureOf(t, 1) // again, as after a crash
			r.ResetRequests()
			if err := rs.PushManifest(t.Context(), app, m.Digest.String(), m); err != nil {
				t.Fatal(err)
			}
			if got := requested(r); len(got) > 2 {
				t.Errorf("got %q for one that is listed, want it looked for at most", got)
			}
		})
	}
}

// Eight at once leave eight, as one after the other do.
func TestPushedReferrersAreNotLost(t *testing.T) {
	r, rs := registryOf(t, ocitest.Options{NoReferrers: true}, nil)
	r.PutBlob(app.Path, []byte("{}"))
	var pushing sync.WaitGroup
	for n := range 8 {
		m, _ := signatureOf(t, n)
		pushing.Go(func() {
			if err := rs.PushManifest(t.Context(), app, m.Digest.String(), m); err != nil {
				t.Error(err)
			}
		})
	}
	pushing.Wait()
	got, err := rs.Referrers(t.Context(), app, imageDescriptor.Digest)
	if err != nil || len(got) != 8 {
		t.Errorf("got %d, %v, want 8", len(got), err)
	}
}

// What others wrote under a fallback tag stays as they wrote it, and what is no list of referrers is not overwritten.
func TestFallbackTagOfOthers(t *testing.T) {
	tag := ocitest.TagOf(imageDescriptor.Digest, "")
	m, desc := signatureOf(t, 1)
	their, _ := signatureOf(t, 2)
	theirs := fmt.Sprintf(`{"size":%d,"of-the-future":true,"digest":%q}`, len(their.Raw), their.Digest)
	for name, tc := range map[string]struct {
		mediaType, text string
		want            error
	}{
		"an index":             {oci.MediaTypeIndex, `{"schemaVersion":2,"annotations":{"a":"b"},"manifests":[` + theirs + `]}`, nil},
		"an index of nothing":  {oci.MediaTypeIndex, `{"manifests":null}`, nil},
		"an image":             {oci.MediaTypeImage, image, oci.ErrUnavailable},
		"no JSON":              {oci.MediaTypeIndex, `<html>`, oci.ErrUnavailable},
		"a list that is none":  {oci.MediaTypeIndex, `{"manifests":{}}`, oci.ErrUnavailable},
		"nothing":              {oci.MediaTypeIndex, `null`, oci.ErrUnavailable},
		"a list that is full":  {oci.MediaTypeIndex, `{"manifests":[],"x":"` + strings.Repeat("x", oci.MaxManifestBytes-100) + `"}`, oci.ErrTooLarge},
		"more than a manifest": {oci.MediaTypeIndex, strings.Repeat(" ", oci.MaxManifestBytes+1), oci.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			r, rs := registryOf(t, ocitest.Options{NoReferrers: true}, nil)
			r.PutBlob(app.Path, []byte("{}"))
			r.PutManifest(app.Path, their.Digest.String(), their.MediaType, their.Raw)
			before := r.PutManifest(app.Path, tag, tc.mediaType, []byte(tc.text))
			err := rs.PushManifest(t.Context(), app, m.Digest.String(), m)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			after, _ := r.Manifest(app.Path, tag)
			if tc.want != nil {
				if after.Digest != before {
					t.Errorf("got %.300s in the place of what was there", after.Raw)
				}
				return
			}
			if !strings.Contains(string(after.Raw), desc.Digest.String()) || strings.Contains(tc.text, theirs) && !strings.Contains(string(after.Raw), theirs) ||
				strings.Contains(tc.text, "annotations") && !strings.Contains(string(after.Raw), `"annotations":{"a":"b"}`) {
				t.Errorf("got %s, want what was there and %s", after.Raw, desc.Digest)
			}
		})
	}
}

// Somebody else who writes at the same time does not take our entry away, nor do we fight for ever.
func TestFallbackTagThatIsOverwritten(t *testing.T) {
	tag := ocitest.TagOf(imageDescriptor.Digest, "")
	m, _ := signatureOf(t, 1)
	for name, tc := range map[string]struct {
		losses int
		want   error
	}{
		"once":     {1, nil},
		"always":   {1 << 30, oci.ErrUnavailable},
		"not ever": {0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, rs := registryOf(t, ocitest.Options{NoReferrers: true}, nil)
			r.PutBlob(app.Path, []byte("{}"))
			puts := func(c ocitest.Request) bool { return c.Method == http.MethodPut && c.Reference == tag }
			r.SetIntercept(ocitest.First(tc.losses, puts, func(w http.ResponseWriter, req *http.Request) bool {
				take(w, req) // and somebody else's takes its place
				return true
			}))
			if err := rs.PushManifest(t.Context(), app, m.Digest.String(), m); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if got, want := r.Count(http.MethodPut, ocitest.KindManifest)-1, min(tc.losses+1, maxListings); got != want {
				t.Errorf("got the index written %d times, want %d", got, want)
			}
		})
	}
}
