package upstream

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestManifest(t *testing.T) {
	digest := oci.FromBytes([]byte(image))
	send := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil // keep net/http from guessing
			if contentType != "" {
				w.Header().Set("Content-Type", contentType)
			}
			_, _ = w.Write([]byte(body))
		}
	}
	untyped := strings.Replace(image, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", 1)
	ofType := func(mediaType, raw string) oci.Content {
		return oci.Content{MediaType: mediaType, Digest: oci.FromBytes([]byte(raw)), Raw: []byte(raw)}
	}
	tests := map[string]struct {
		handler   http.HandlerFunc
		reference string
		want      oci.Content
		wantErr   error
	}{
		"by tag":                       {send(oci.MediaTypeImage, image), "latest", ofType(oci.MediaTypeImage, image), nil},
		"by digest":                    {send(oci.MediaTypeImage, image), digest.String(), ofType(oci.MediaTypeImage, image), nil},
		"a type with parameters":       {send(oci.MediaTypeImage+"; charset=utf-8", image), "latest", ofType(oci.MediaTypeImage, image), nil},
		"a type of its own":            {send("application/x-thing", image), "latest", ofType("application/x-thing", image), nil},
		"no type":                      {send("", image), "latest", ofType(oci.MediaTypeImage, image), nil},
		"a type that says nothing":     {send("application/octet-stream", image), "latest", ofType(oci.MediaTypeImage, image), nil},
		"a type that is malformed":     {send("//;", image), "latest", ofType(oci.MediaTypeImage, image), nil},
		"no type anywhere":             {send("text/plain", untyped), "latest", ofType("", untyped), nil},
		"no JSON":                      {send("", "<html>"), "latest", ofType("", "<html>"), nil},
		"another digest":               {send(oci.MediaTypeImage, image+"\n"), digest.String(), oci.Content{}, oci.ErrMismatch},
		"as large as allowed":          {send(oci.MediaTypeImage, pad(oci.MaxManifestBytes)), "latest", ofType(oci.MediaTypeImage, pad(oci.MaxManifestBytes)), nil},
		"larger":                       {send(oci.MediaTypeImage, pad(oci.MaxManifestBytes+1)), "latest", oci.Content{}, oci.ErrTooLarge},
		"without end":                  {endless, "latest", oci.Content{}, oci.ErrTooLarge},
		"cut":                          {cut, "latest", oci.Content{}, oci.ErrUnavailable},
		"missing":                      {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "latest", oci.Content{}, oci.ErrNotFound},
		"a success that is not one":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }, "latest", oci.Content{}, oci.ErrUnavailable},
		"a part that nobody asked for": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) }, "latest", oci.Content{}, oci.ErrUnavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.handler)
			got, err := open(t, Options{}, configFor(s)).Manifest(t.Context(), app, tc.reference)
			if !errors.Is(err, tc.wantErr) {
				t.Errorf("got %v, want %v", err, tc.wantErr)
			}
			if got.MediaType != tc.want.MediaType || got.Digest != tc.want.Digest || !bytes.Equal(got.Raw, tc.want.Raw) {
				t.Errorf("got %q, %s, %d bytes, want %q, %s, %d", got.MediaType, got.Digest, len(got.Raw), tc.want.MediaType, tc.want.Digest, len(tc.want.Raw))
			}
			if _, isAnswer := errors.AsType[*oci.Error](err); err != nil && !isAnswer {
				t.Errorf("got %v, want an answer", err)
			}
			if !errors.Is(tc.wantErr, oci.ErrNotFound) && oci.IsMissing(err) {
				t.Errorf("got %v, which says that it is missing", err)
			}
			if diff := cmp.Diff(s.asked(), []string{"GET " + appManifest + tc.reference}); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
			wantAccept := "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " +
				"application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"
			if diff := cmp.Diff(s.headers("Accept"), []string{wantAccept}); diff != "" {
				t.Errorf("got, want:\n%s", diff)
			}
		})
	}
}

// pad returns image with as many spaces after it as make n bytes.
func pad(n int) string { return image + strings.Repeat(" ", n-len(image)) }

func endless(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", oci.MediaTypeImage)
	for {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", oci.MediaTypeImage)
	w.Header().Set("Content-Length", "1000")
	_, _ = w.Write([]byte(image[:100]))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}
