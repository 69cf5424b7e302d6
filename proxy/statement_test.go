package proxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// words are Statements that say something of what is allowed.
type words struct {
	made map[gate.Candidate]oci.Artifact
	// before are statements that were superseded.
	before map[oci.Digest]gate.Candidate
	// elsewhere says that they were made by another replica a moment ago.
	elsewhere bool
	// fails is what everything but knowing its own fails with.
	fails error
}

func (w *words) Current(_ context.Context, v gate.Verdict) (oci.Artifact, bool, error) {
	made, ok := w.made[v.Candidate()]
	if !ok || !v.Allowed() || w.fails != nil {
		return oci.Artifact{}, false, w.fails
	}
	return made, true, nil
}

func (w *words) Subject(_ context.Context, repo oci.Repository, d oci.Digest, anew bool) (oci.Digest, bool, error) {
	if w.elsewhere && !anew {
		return "", false, nil
	}
	candidates := slices.SortedFunc(maps.Keys(w.made), func(a, b gate.Candidate) int { return strings.Compare(b.Digest.String(), a.Digest.String()) })
	for _, c := range candidates {
		if made := w.made[c]; c.Repository == repo && (made.Manifest.Digest == d || slices.ContainsFunc(made.Blobs, func(b []byte) bool { return oci.FromBytes(b) == d })) {
			return c.Digest, true, nil
		}
	}
	c, ok := w.before[d]
	return c.Digest, ok && c.Repository == repo, nil
}

// stated returns what there is to say of c.
func stated(c gate.Candidate) oci.Artifact {
	bundle := []byte("bundle about " + c.String())
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},`+
		`"layers":[{"mediaType":%q,"digest":%q,"size":%d}],"subject":{"mediaType":%q,"digest":%q,"size":7},"annotations":{"a":"b"}}`,
		oci.MediaTypeImage, oci.MediaTypeSigstoreBundle, oci.MediaTypeEmpty, oci.FromBytes([]byte("{}")),
		oci.MediaTypeSigstoreBundle, oci.FromBytes(bundle), len(bundle), oci.MediaTypeImage, c.Digest)
	return oci.Artifact{
		Manifest: oci.Content{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(raw), Raw: raw}, Blobs: [][]byte{[]byte("{}"), bundle},
	}
}

// withWords has f say something of these candidates.
func withWords(f *fixture, cs ...gate.Candidate) *words {
	w := &words{made: map[gate.Candidate]oci.Artifact{}, before: map[oci.Digest]gate.Candidate{}}
	for _, c := range cs {
		w.made[c] = stated(c)
	}
	f.proxy.o.Statements = w
	return w
}

// listed returns what is listed as referring to c, and the answer's code.
func listed(f *fixture, c gate.Candidate, query string) (digests []oci.Digest, code int) {
	f.t.Helper()
	w := f.do("GET", "/v2/"+c.Repository.String()+"/referrers/"+c.Digest.String()+query)
	if w.Code != 200 {
		return nil, w.Code
	}
	var index struct{ Manifests []oci.Descriptor }
	decode(f.t, w.Body.Bytes(), &index)
	for _, d := range index.Manifests {
		digests = append(digests, d.Digest)
	}
	return digests, w.Code
}

// What we state is listed in front of what others say, to those who may pull, while the verdict is in force.
func TestStatementsAreListed(t *testing.T) {
	sbom := oci.Descriptor{MediaType: oci.MediaTypeImage, ArtifactType: "a/b", Digest: oci.FromBytes([]byte("sbom")), Size: 1}
	for _, tt := range []struct {
		law, query string
		edit       func(*fixture, *words, gate.Candidate)
		want       func(own oci.Digest) []oci.Digest
		wantCode   int
	}{
		{"in front", "", nil, func(own oci.Digest) []oci.Digest { return []oci.Digest{own, sbom.Digest} }, 200},
		{"by its type", "?artifactType=" + "application/vnd.dev.sigstore.bundle.v0.3%2Bjson", nil, func(own oci.Digest) []oci.Digest { return []oci.Digest{own} }, 200},
		{"not by another type", "?artifactType=a/b", nil, func(oci.Digest) []oci.Digest { return []oci.Digest{sbom.Digest} }, 200},
		{"not of a denied image", "", func(f *fixture, _ *words, c gate.Candidate) { f.deny(c, "unsigned") }, func(oci.Digest) []oci.Digest { return []oci.Digest{sbom.Digest} }, 200},
		{"not without a verdict", "", func(f *fixture, _ *words, c gate.Candidate) { f.judge.failures[c] = errInternal }, func(oci.Digest) []oci.Digest { return []oci.Digest{sbom.Digest} }, 200},
		{"once, whoever else lists it", "", func(f *fixture, w *words, c gate.Candidate) {
			f.referrers = append(f.referrers, w.made[c].Manifest.Descriptor())
		}, func(own oci.Digest) []oci.Digest { return []oci.Digest{own, sbom.Digest} }, 200},
		{"not when it is superseded, whoever else lists it", "", func(f *fixture, w *words, c gate.Candidate) {
			f.deny(c, "unsigned")
			f.referrers = append(f.referrers, w.made[c].Manifest.Descriptor())
		}, func(oci.Digest) []oci.Digest { return []oci.Digest{sbom.Digest} }, 200},
		{"not when it cannot be had", "", func(_ *fixture, w *words, _ gate.Candidate) { w.fails = errInternal }, func(oci.Digest) []oci.Digest { return nil }, 503},
	} {
		t.Run(tt.law, func(t *testing.T) {
			f := newFixture(t)
			c := f.image(app, "v1", "app")
			f.allow(c)
			f.referrers = []oci.Descriptor{sbom}
			w := withWords(f, c)
			if tt.edit != nil {
				tt.edit(f, w, c)
			}
			got, code := listed(f, c, tt.query)
			if diff := cmp.Diff(got, tt.want(w.made[c].Manifest.Digest)); code != tt.wantCode || diff != "" {
				t.Errorf("got %d (-got +want):\n%s", code, diff)
			}
		})
	}
	t.Run("with its type and annotations", func(t *testing.T) {
		f := newFixture(t)
		c := f.image(app, "v1", "app")
		got := referrer(withWords(f, c).made[c].Manifest)
		if got.ArtifactType != oci.MediaTypeSigstoreBundle || got.Annotations["a"] != "b" || got.Size == 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// Manifest and blobs of a statement are served while the verdict it states is in force, in its own repository, to those who may pull.
func TestStatementsAreServed(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	upstream, hosted, denied, gone, unjudged := f.image(app, "v1", "app"), d.pushed(f, web, "v1", "web"), f.image(app, "v2", "denied"), f.image(web, "v2", "gone"), f.image(app, "v3", "unjudged")
	f.allow(upstream, hosted, gone, unjudged)
	f.deny(denied, "unsigned")
	f.judge.failures[unjudged] = errInternal
	w := withWords(f, upstream, hosted, denied, gone, unjudged)
	superseded := oci.FromBytes([]byte("superseded"))
	w.before[superseded] = hosted
	d.manifests[gate.Candidate{Repository: web, Digest: superseded}] = oci.Content{MediaType: oci.MediaTypeImage, Digest: superseded, Raw: []byte("superseded")}
	f.allow(gate.Candidate{Repository: web, Digest: superseded})
	f.door.rights["user:narrow docker.io/library/other"] = []access.Action{access.Pull}
	f.door.rights["user:reader docker.io/library/other"] = []access.Action{access.Pull}
	manifest := func(repo oci.Repository, c gate.Candidate) string {
		return "/v2/" + repo.String() + "/manifests/" + w.made[c].Manifest.Digest.String()
	}
	blob := func(repo oci.Repository, c gate.Candidate, i int) string {
		return "/v2/" + repo.String() + "/blobs/" + oci.FromBytes(w.made[c].Blobs[i]).String()
	}
	for _, tt := range []struct {
		law, who, method, target string
		want                     int
		wantBody                 string
	}{
		{"the manifest", "reader", "GET", manifest(app, upstream), 200, string(w.made[upstream].Manifest.Raw)},
		{"the manifest's head", "reader", "HEAD", manifest(app, upstream), 200, ""},
		{"the bundle", "reader", "GET", blob(app, upstream, 1), 200, string(w.made[upstream].Blobs[1])},
		{"the bundle's head", "reader", "HEAD", blob(app, upstream, 1), 200, ""},
		{"of a hosted repository", "reader", "GET", manifest(web, hosted), 200, string(w.made[hosted].Manifest.Raw)},
		{"its config", "reader", "GET", "/v2/apps/web/blobs/" + oci.FromBytes([]byte("{}")).String(), 200, "{}"},
		{"its config's head", "reader", "HEAD", "/v2/apps/web/blobs/" + oci.FromBytes([]byte("{}")).String(), 200, ""},
		{"no config where nothing is stated", "reader", "GET", "/v2/" + other.String() + "/blobs/" + oci.FromBytes([]byte("{}")).String(), 404, errorBody("BLOB_UNKNOWN", "the blob is not known")},
		{"to whoever pushes there", "ci", "GET", manifest(web, hosted), 200, string(w.made[hosted].Manifest.Raw)},
		{"the bundle to whoever pushes there", "ci", "GET", blob(web, hosted, 1), 200, string(w.made[hosted].Blobs[1])},
		{"whoever pushes uploads a blob of his own", "ci", "HEAD", blob(web, hosted, 1), 404, ""},
		{"not to whoever may not pull", "narrow", "GET", manifest(app, upstream), 403, errorBody("DENIED", "not yours")},
		{"nor its bundle", "narrow", "GET", blob(app, upstream, 1), 403, errorBody("DENIED", "not yours")},
		{"not in another repository", "reader", "GET", blob(other, upstream, 1), 404, errorBody("BLOB_UNKNOWN", "the blob is not known")},
		{"not about a denied image", "reader", "GET", manifest(app, denied), 404, errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
		{"nor its bundle", "reader", "GET", blob(app, denied, 1), 404, errorBody("BLOB_UNKNOWN", "the blob is not known")},
		{"not about a manifest that was deleted", "reader", "GET", manifest(web, gone), 404, errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
		{"not without a verdict", "reader", "GET", manifest(app, unjudged), 503, errorBody("UNAVAILABLE", "could not judge: waiting")},
		{"nor the bundle", "reader", "GET", blob(app, unjudged, 1), 503, errorBody("UNAVAILABLE", "could not judge: waiting")},
		{"not when it is superseded and somebody pushed it", "reader", "GET", "/v2/apps/web/manifests/" + superseded.String(), 404, errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
		{"not even to who pushed it", "ci", "GET", "/v2/apps/web/manifests/" + superseded.String(), 404, errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			got := f.do(tt.method, tt.target, as(tt.who)...)
			if got.Code != tt.want || tt.method == "GET" && got.Body.String() != tt.wantBody {
				t.Errorf("got %d %s, want %d %s", got.Code, got.Body, tt.want, tt.wantBody)
			}
		})
	}
	for _, asked := range f.judged {
		for _, made := range w.made {
			if asked.Digest == made.Manifest.Digest && asked.Repository != other {
				t.Errorf("%s was judged, our own word", asked)
			}
		}
	}
}

// What another replica stated a moment ago is found, after everything else.
func TestStatementsOfOtherReplicas(t *testing.T) {
	f := newFixture(t)
	c := f.image(app, "v1", "app")
	f.allow(c)
	w := withWords(f, c)
	w.elsewhere = true
	own := w.made[c].Manifest
	f.judge.failures[gate.Candidate{Repository: app, Digest: own.Digest}] = &gate.NoVerdict{Step: gate.StepHold, Err: oci.ErrNotFound}
	for _, method := range []string{"GET", "HEAD"} {
		if got := f.do(method, "/v2/docker.io/library/app/manifests/"+own.Digest.String()); got.Code != 200 {
			t.Errorf("%s: got %d %s", method, got.Code, got.Body)
		}
	}
	if got := f.do("GET", "/v2/docker.io/library/app/blobs/"+oci.FromBytes(w.made[c].Blobs[1]).String()); got.Code != 200 {
		t.Errorf("the bundle: got %d %s", got.Code, got.Body)
	}
}

// Pushing what we state changes nothing.
func TestPushingAStatement(t *testing.T) {
	f := newFixture(t)
	d := withDock(f)
	c := d.pushed(f, web, "v1", "web")
	f.allow(c)
	w := withWords(f, c)
	own := w.made[c].Manifest
	got := f.send("PUT", "/v2/apps/web/manifests/"+own.Digest.String(), string(own.Raw), append(as("ci"), "Content-Type", oci.MediaTypeImage)...)
	if got.Code != 201 || got.Header().Get("OCI-Subject") != c.Digest.String() || got.Header().Get("Docker-Content-Digest") != own.Digest.String() {
		t.Errorf("got %d %s %v", got.Code, got.Body, got.Header())
	}
	got = f.send("PUT", "/v2/apps/web/manifests/v2", string(own.Raw), append(as("ci"), "Content-Type", oci.MediaTypeImage)...)
	if got.Code != 403 {
		t.Errorf("under a tag: got %d %s", got.Code, got.Body)
	}
	if len(d.calls) > 0 {
		t.Errorf("did %v", d.calls)
	}
	got = f.send("PUT", "/v2/apps/api/manifests/"+own.Digest.String(), string(own.Raw), append(as("ci"), "Content-Type", oci.MediaTypeImage)...)
	if got.Code != 201 || len(d.calls) != 1 {
		t.Errorf("in another repository: got %d %s, %v", got.Code, got.Body, d.calls)
	}
}
