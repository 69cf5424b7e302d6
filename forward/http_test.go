package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// wire is a Destination that speaks HTTP to one registry, whatever the upstream is called. It keeps no connection: a bubble's time
// would stand still as long as one is open.
type wire struct {
	client http.Client
	root   string
}

func newWire(root string) *wire {
	return &wire{http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, root}
}

// codes are what statuses mean to whoever is answered with them alone.
var codes = map[int]oci.Code{
	http.StatusBadRequest: oci.CodeManifestInvalid, http.StatusUnauthorized: oci.CodeUnauthorized, http.StatusForbidden: oci.CodeDenied,
	http.StatusNotFound: oci.CodeNameUnknown, http.StatusTooManyRequests: oci.CodeTooManyRequests,
}

func (w *wire) send(ctx context.Context, method, target, mediaType string, size int64, body io.Reader, want ...int) (http.Header, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, 0, err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", mediaType)
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, oci.MaxManifestBytes))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, 0, err
	}
	if slices.Contains(want, resp.StatusCode) {
		return resp.Header, resp.StatusCode, nil
	}
	failure := &oci.Error{Code: oci.CodeUnavailable, Message: fmt.Sprintf("the registry answers %d", resp.StatusCode)}
	if code, ok := codes[resp.StatusCode]; ok {
		failure.Code = code
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		failure.RetryAfter = time.Duration(seconds) * time.Second
	}
	return nil, 0, failure
}

func (w *wire) PushBlob(ctx context.Context, repo oci.Repository, desc oci.Descriptor, open func() (io.ReadCloser, error)) error {
	blobs := w.root + "/v2/" + repo.Path + "/blobs/"
	_, status, err := w.send(ctx, http.MethodHead, blobs+desc.Digest.String(), "", 0, nil, http.StatusOK, http.StatusNotFound)
	if err != nil || status == http.StatusOK {
		return err
	}
	header, _, err := w.send(ctx, http.MethodPost, blobs+"uploads/", "", 0, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	content, err := open()
	if err != nil {
		return err
	}
	target := w.root + header.Get("Location") + "?digest=" + url.QueryEscape(desc.Digest.String())
	_, _, err = w.send(ctx, http.MethodPut, target, "application/octet-stream", desc.Size, content, http.StatusCreated)
	return err
}

func (w *wire) PushManifest(ctx context.Context, repo oci.Repository, reference string, content oci.Content) error {
	target := w.root + "/v2/" + repo.Path + "/manifests/" + reference
	header, _, err := w.send(ctx, http.MethodPut, target, content.MediaType, int64(len(content.Raw)), bytes.NewReader(content.Raw), http.StatusCreated)
	if got := header.Get("Docker-Content-Digest"); err == nil && got != content.Digest.String() {
		return fmt.Errorf("%s was answered with %.80q: %w", content.Digest, got, oci.ErrMismatch)
	}
	return err
}

// writes matches requests of a kind by one method.
func writes(method string, kind ocitest.Kind) ocitest.Match {
	return func(c ocitest.Request) bool { return c.Method == method && c.Kind == kind }
}

// cut reads half of what is sent and breaks the connection off.
func cut(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2) // what comes of it does not matter
	panic(http.ErrAbortHandler)
}

// wrongDigest takes a manifest and says that it is another one.
func wrongDigest(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Docker-Content-Digest", oci.FromBytes([]byte("another")).String())
	w.WriteHeader(http.StatusCreated)
	return true
}

// An image with evidence of every kind, an index above it, before a registry that misbehaves once, and then does not.
func TestRegistries(t *testing.T) {
	const manifest, upload, blob = ocitest.KindManifest, ocitest.KindUpload, ocitest.KindBlob
	for _, tt := range []struct {
		law  string
		once ocitest.Intercept
		want []Outcome
		// within is how long it takes, at most.
		within time.Duration
	}{
		{"one that behaves", nil, []Outcome{OutcomeCopied}, 0},
		{
			"one that limits the rate of uploads",
			ocitest.First(1, writes("POST", upload), ocitest.Status(429, 10*time.Minute, "slow down")),
			[]Outcome{OutcomeLimited, OutcomeCopied}, 10 * time.Minute,
		}, {
			"one that limits the rate of manifests",
			ocitest.First(1, writes("PUT", manifest), ocitest.Status(429, 10*time.Minute, "slow down")),
			[]Outcome{OutcomeLimited, OutcomeCopied}, 10 * time.Minute,
		}, {
			"one that breaks in the middle of a blob",
			ocitest.First(1, writes("PUT", upload), ocitest.Status(500, 0, "oops")),
			[]Outcome{OutcomeUnavailable, OutcomeCopied}, firstWait,
		}, {
			"one that cuts the connection in the middle of a blob",
			ocitest.First(1, writes("PUT", upload), cut),
			[]Outcome{OutcomeUnavailable, OutcomeCopied}, firstWait,
		}, {
			"one that cuts the connection in the middle of a manifest",
			ocitest.First(1, writes("PUT", manifest), cut),
			[]Outcome{OutcomeUnavailable, OutcomeCopied}, firstWait,
		}, {
			"one that cannot tell what it has",
			ocitest.First(1, writes("HEAD", blob), ocitest.Status(503, 0, "oops")),
			[]Outcome{OutcomeUnavailable, OutcomeCopied}, firstWait,
		}, {
			"one that stores something else",
			ocitest.First(1, writes("PUT", manifest), wrongDigest),
			[]Outcome{OutcomeRefused, OutcomeCopied}, rareWait,
		}, {
			"one that wants other credentials",
			ocitest.First(1, writes("POST", upload), ocitest.Status(401, 0, "who are you")),
			[]Outcome{OutcomeRefused, OutcomeCopied}, rareWait,
		}, {
			"one that forbids it",
			ocitest.First(1, writes("POST", upload), ocitest.Status(403, 0, "no")),
			[]Outcome{OutcomeRefused, OutcomeCopied}, rareWait,
		}, {
			"one that has no such repository",
			ocitest.First(1, writes("POST", upload), ocitest.Status(404, 0, "no")),
			[]Outcome{OutcomeRefused, OutcomeCopied}, rareWait,
		}, {
			"one that does not like the manifest",
			ocitest.First(1, writes("PUT", manifest), ocitest.Status(400, 0, "no")),
			[]Outcome{OutcomeRefused, OutcomeCopied}, rareWait,
		},
	} {
		t.Run(tt.law, func(t *testing.T) {
			registry, err := ocitest.StartRegistry(ocitest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer registry.Close()
			registry.SetIntercept(tt.once)
			inBubble(t, fill, func(t *testing.T, h *harbor, _ *quay) {
				began := time.Now()
				f := h.forwarder(newWire(registry.URL()))
				defer run(t, f)()
				for len(h.outcomes()) < len(tt.want) {
					synctest.Wait()
					pass(time.Second)
				}
				synctest.Wait()
				if diff := cmp.Diff(tt.want, h.outcomes()); diff != "" {
					t.Errorf("outcomes (-want +got):\n%s\n%v", diff, f.Status())
				}
				if took := time.Since(began); took > tt.within+2*time.Second {
					t.Errorf("it took %s, want %s at most", took, tt.within)
				}
				compare(t, h, registry)
			})
		})
	}
}

// fill admits an index that has all there is to copy.
func fill(h *harbor) {
	child := h.image("amd64", "")
	h.referrer("sbom", child)
	h.image("sig", tagOf(child.Digest)+".sig")
	index := h.index("index", "v1", child)
	h.referrer("provenance", index)
	h.content.Tag(hostedPath, "latest", index.Digest)
	h.admit(index, "latest", "v1")
}

// compare compares what is hosted with what the registry has, by what clients can ask it.
func compare(t *testing.T, h *harbor, registry *ocitest.Registry) {
	t.Helper()
	const there = "mirror/" + hostedPath
	for d, name := range h.names {
		if strings.Contains(name, "/") {
			if _, ok := registry.Blob(there, d); !ok {
				t.Errorf("the blob %s is not there", name)
			}
			continue
		}
		want, _ := h.content.Manifest(hostedPath, d.String())
		got, _ := registry.Manifest(there, d.String())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, suffix := range []string{".sig", ""} {
			want, here := h.content.Manifest(hostedPath, tagOf(d)+suffix)
			got, there := registry.Manifest(there, tagOf(d)+suffix)
			if here != there || got.Digest != want.Digest {
				t.Errorf("the tag %s%s of %s stands for %s, want %s", tagOf(d), suffix, name, got.Digest, want.Digest)
			}
		}
	}
	for _, tag := range []string{"v1", "latest"} {
		want, _ := h.content.Manifest(hostedPath, tag)
		if got, _ := registry.Manifest(there, tag); got.Digest != want.Digest {
			t.Errorf("the tag %s stands for %s, want %s", tag, got.Digest, want.Digest)
		}
	}
}

// The bytes of a blob travel once, whatever happens afterwards.
func TestBlobsTravelOnce(t *testing.T) {
	registry, err := ocitest.StartRegistry(ocitest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	registry.SetIntercept(ocitest.First(3, writes("PUT", ocitest.KindManifest), ocitest.Status(503, 0, "not now")))
	inBubble(t, fill, func(t *testing.T, h *harbor, _ *quay) {
		items, err := h.Pending(t.Context())
		if err != nil || len(items) != 1 {
			t.Fatalf("got %v, %v, want one item", items, err)
		}
		item := items[0]
		f := h.forwarder(newWire(registry.URL()))
		var sent []bool
		for range 5 {
			bytes, _ := f.copyItem(t.Context(), item) // how often it fails is the registry's doing
			sent = append(sent, bytes > 0)
		}
		// The image; nothing new; nothing new; the evidence and the rest; nothing new.
		if diff := cmp.Diff([]bool{true, false, false, true, false}, sent); diff != "" {
			t.Errorf("which attempts sent blobs (-want +got):\n%s", diff)
		}
		blobs := map[oci.Digest]bool{}
		for d, name := range h.names {
			if strings.Contains(name, "/") {
				blobs[d] = true
			}
		}
		if got := registry.Count("PUT", ocitest.KindUpload); got != len(blobs) {
			t.Errorf("got %d uploads of %d blobs", got, len(blobs))
		}
	})
}
