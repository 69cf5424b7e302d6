package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// judge is a Judge that knows every verdict beforehand.
type judge struct {
	// verdicts, failures and steps are set before the first request. A candidate with a step is being judged for ever.
	verdicts map[gate.Candidate]gate.Verdict
	failures map[gate.Candidate]error
	steps    map[gate.Candidate]string
	// tagVerdicts are the verdicts on asking by tags, or for one digest by "tag@digest"; any other is allowed.
	tagVerdicts map[string]gate.Verdict

	mu              sync.Mutex
	judged, started []gate.Candidate // guarded by mu
}

func (j *judge) Judge(ctx context.Context, c gate.Candidate) (gate.Verdict, error) {
	j.mu.Lock()
	j.judged = append(j.judged, c)
	j.mu.Unlock()
	if step, ok := j.steps[c]; ok {
		<-ctx.Done()
		return gate.Verdict{}, &gate.NoVerdict{Step: step, Err: ctx.Err()}
	}
	if err, ok := j.failures[c]; ok {
		return gate.Verdict{}, err
	}
	return j.verdicts[c], nil // the zero Verdict, a denial, for what nobody has thought of
}

func (j *judge) JudgeTag(c gate.Candidate, tag string) gate.Verdict {
	v, ok := j.tagVerdicts[tag+"@"+c.Digest.String()]
	if !ok {
		v, ok = j.tagVerdicts[tag]
	}
	if !ok {
		v.Decision = gate.Allow
	}
	v.Repository, v.Digest = c.Repository, c.Digest
	return v
}

func (j *judge) Start(c gate.Candidate) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.started = append(j.started, c)
}

// shelf is the Released, Resolver, Referrers and History of the tests. It opens whatever it has: what must not be served is for the
// proxy not to ask for.
type shelf struct {
	manifests map[gate.Candidate]oci.Content
	blobs     map[oci.Digest]func() (io.ReadCloser, int64, error)
	holders   map[oci.Digest][]gate.Candidate
	tags      map[string]oci.Descriptor // by "repository:tag", or "repository@digest"
	stale     map[string]bool
	failures  map[string]error // what asking for that fails with
	listed    []string
	referrers []oci.Descriptor
	once      map[gate.Candidate]bool

	opened []string // blobs and manifests that were opened, in order
}

func (s *shelf) Manifest(_ context.Context, c gate.Candidate) (oci.Content, error) {
	s.opened = append(s.opened, c.String())
	content, ok := s.manifests[c]
	if !ok {
		return oci.Content{}, oci.ErrNotFound
	}
	return content, nil
}

func (s *shelf) Blob(_ context.Context, c gate.Candidate, d oci.Digest) (io.ReadCloser, int64, error) {
	s.opened = append(s.opened, c.String()+" "+d.String())
	open, ok := s.blobs[d]
	if !ok {
		return nil, 0, oci.ErrBlobUnknown
	}
	return open()
}

func (s *shelf) Allowed(repo oci.Repository) error {
	if err, ok := s.failures["allowed "+repo.String()]; ok {
		return err
	}
	if repo.Upstream != "docker.io" && repo.Upstream != "" {
		return &oci.Error{Code: oci.CodeDenied, Message: repo.String() + " is not on the allowlist: its upstream is not configured"}
	}
	return nil
}

func (s *shelf) Resolve(_ context.Context, repo oci.Repository, reference string) (oci.Descriptor, bool, error) {
	name := repo.String() + ":" + reference
	if err, ok := s.failures[name]; ok {
		return oci.Descriptor{}, false, err
	}
	desc, ok := s.tags[name]
	if !ok {
		return oci.Descriptor{}, false, oci.ErrNotFound
	}
	return desc, s.stale[name], nil
}

func (s *shelf) Tags(_ context.Context, repo oci.Repository, n int, last string) ([]string, bool, error) {
	if err, ok := s.failures["tags "+repo.String()]; ok {
		return nil, false, err
	}
	rest := s.listed[slices.Index(s.listed, last)+1:]
	return rest[:min(n, len(rest))], len(rest) > n, nil
}

func (s *shelf) Referrers(_ context.Context, repo oci.Repository, _ oci.Digest) ([]oci.Descriptor, error) {
	if err, ok := s.failures["referrers "+repo.String()]; ok {
		return nil, err
	}
	return s.referrers, nil
}

func (s *shelf) Holders(_ context.Context, repo oci.Repository, blob oci.Digest) ([]gate.Candidate, error) {
	if err, ok := s.failures["holders "+repo.String()]; ok {
		return nil, err
	}
	return s.holders[blob], nil
}

func (s *shelf) Released(_ context.Context, c gate.Candidate) (bool, error) {
	if err, ok := s.failures["released "+c.String()]; ok {
		return false, err
	}
	return s.once[c], nil
}

// door is the Callers and Rights of the tests. Basic credentials whose password is that of everybody make a caller of that name.
type door struct {
	challenge string // empty where nobody can have credentials
	// rights are by "caller pattern"; "**" is every repository.
	rights map[string][]access.Action

	mu      sync.Mutex
	allowed []string // guarded by mu; what was put on record, refusals too
	fails   error    // what recording fails with
}

const everybodysPassword = "correct horse"

func (d *door) Identify(r *http.Request) (access.Caller, error) {
	name, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return access.Caller{Name: "anonymous"}, nil
	case password != everybodysPassword:
		return access.Caller{}, &oci.Error{Code: oci.CodeUnauthorized, Message: "the credentials are not good"}
	}
	return access.Caller{Name: "user:" + name}, nil
}

func (d *door) Welcome(caller access.Caller) error {
	if caller.Anonymous() && d.challenge != "" {
		return &oci.Error{Code: oci.CodeUnauthorized, Message: "who are you"}
	}
	return nil
}

func (d *door) Challenge(_ *http.Request, action access.Action, repo oci.Repository) string {
	challenge := cmp.Or(d.challenge, `Basic realm="tidewaiter"`)
	if repo == (oci.Repository{}) || d.challenge == "" {
		return challenge
	}
	return challenge + `,scope="` + repo.String() + ":" + string(action) + `"`
}

func (d *door) AllowOn(_ context.Context, caller access.Caller, action access.Action, on oci.Reference) error {
	repo := on.Repository
	ok := d.May(caller, action, repo)
	d.mu.Lock()
	defer d.mu.Unlock()
	if action != access.Pull || !ok {
		d.allowed = append(d.allowed, fmt.Sprintf("%s %s %s %t", caller.Name, action, repo, ok))
	}
	switch {
	case d.fails != nil:
		return d.fails
	case ok:
		return nil
	case !caller.Anonymous():
		return &oci.Error{Code: oci.CodeDenied, Message: "not yours"}
	}
	return &oci.Error{Code: oci.CodeUnauthorized, Message: "who are you"}
}

func (d *door) May(caller access.Caller, action access.Action, repo oci.Repository) bool {
	return slices.Contains(d.rights[caller.Name+" **"], action) || slices.Contains(d.rights[caller.Name+" "+repo.String()], action)
}

func (d *door) Authors(caller access.Caller, repo oci.Repository) bool {
	return d.May(caller, access.Push, repo) || d.May(caller, access.Sign, repo)
}

// fixture is a proxy in front of one repository with an image for every case.
type fixture struct {
	t *testing.T
	*judge
	*shelf
	door  *door
	log   *bytes.Buffer
	proxy *Proxy
}

var (
	app   = oci.Repository{Upstream: "docker.io", Path: "library/app"}
	other = oci.Repository{Upstream: "docker.io", Path: "library/other"}
)

var errInternal = errors.New("dial tcp 10.1.2.3:6379: secret detail")

func newFixture(t *testing.T) *fixture {
	f := &fixture{
		t:     t,
		judge: &judge{verdicts: map[gate.Candidate]gate.Verdict{}, failures: map[gate.Candidate]error{}, steps: map[gate.Candidate]string{}},
		shelf: &shelf{
			manifests: map[gate.Candidate]oci.Content{}, blobs: map[oci.Digest]func() (io.ReadCloser, int64, error){},
			holders: map[oci.Digest][]gate.Candidate{}, tags: map[string]oci.Descriptor{}, stale: map[string]bool{},
			failures: map[string]error{}, once: map[gate.Candidate]bool{},
			listed: []string{"v1", "v2", "v3"},
		},
		log: &bytes.Buffer{},
	}
	f.door = &door{rights: map[string][]access.Action{"anonymous **": {access.Pull}}}
	f.proxy = New(Options{
		Judge: f.judge, Released: f.shelf, Resolver: f.shelf, Referrers: f.shelf, History: f.shelf,
		Log:             slog.New(slog.NewJSONHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		DefaultUpstream: "docker.io", AdminURL: "https://tide.example/", Platforms: []string{"linux/amd64", "linux/arm64"},
		Callers: f.door, Rights: f.door,
	})
	return f
}

// image adds an image of repo under tag, made of a config and a layer that both say marker, and returns it. There is no verdict on
// it yet.
func (f *fixture) image(repo oci.Repository, tag, marker string) gate.Candidate {
	config, layer := "{\"config\":\""+marker+"\"}", "layer of "+marker
	raw := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":"application/x-tar","digest":%q,"size":%d}]}`,
		oci.MediaTypeConfig, oci.FromBytes([]byte(config)), len(config), oci.FromBytes([]byte(layer)), len(layer))
	c := f.manifest(repo, tag, oci.MediaTypeImage, raw)
	for _, blob := range []string{config, layer} {
		d := oci.FromBytes([]byte(blob))
		f.holders[d] = append(f.holders[d], c)
		f.blobs[d] = func() (io.ReadCloser, int64, error) {
			return struct {
				io.ReadSeeker
				io.Closer
			}{strings.NewReader(blob), io.NopCloser(nil)}, int64(len(blob)), nil
		}
	}
	return c
}

func (f *fixture) manifest(repo oci.Repository, tag, mediaType, raw string) gate.Candidate {
	content := oci.Content{MediaType: mediaType, Digest: oci.FromBytes([]byte(raw)), Raw: []byte(raw)}
	c := gate.Candidate{Repository: repo, Digest: content.Digest}
	f.manifests[c] = content
	f.tags[repo.String()+":"+tag] = content.Descriptor()
	f.tags[repo.String()+":"+c.Digest.String()] = content.Descriptor()
	return c
}

// index adds an index of app under tag with the given children, each for the platform before it.
func (f *fixture) index(tag string, platformed ...any) gate.Candidate {
	var children []string
	for pair := range slices.Chunk(platformed, 2) {
		platform := ""
		if parts := append(strings.Split(pair[0].(string), "/"), ""); len(parts) > 2 { // the last may be a variant
			platform = fmt.Sprintf(`,"platform":{"os":%q,"architecture":%q,"variant":%q}`, parts[0], parts[1], parts[2])
		}
		children = append(children, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7%s}`,
			oci.MediaTypeImage, pair[1].(gate.Candidate).Digest, platform))
	}
	return f.manifest(app, tag, oci.MediaTypeIndex, `{"schemaVersion":2,"manifests":[`+strings.Join(children, ",")+`]}`)
}

func (f *fixture) allow(cs ...gate.Candidate) {
	for _, c := range cs {
		f.verdicts[c] = gate.Verdict{Decision: gate.Allow, Repository: c.Repository, Digest: c.Digest, Policy: "production"}
	}
}

func (f *fixture) deny(c gate.Candidate, reasons ...string) {
	v := gate.Verdict{Repository: c.Repository, Digest: c.Digest, Policy: "production"}
	for _, r := range reasons {
		v.Reasons = append(v.Reasons, gate.Reason{Rule: gate.RuleSignatures, Message: r})
	}
	f.verdicts[c] = v
}

// do sends one request. headers alternate names and values.
func (f *fixture) do(method, target string, headers ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	f.proxy.ServeHTTP(w, r)
	return w
}

// denialBody is the body of a denial of c for one reason.
func denialBody(c gate.Candidate, prefix, reason string) string {
	return fmt.Sprintf(`{"errors":[{"code":"DENIED","message":"%sproduction: %s — https://tide.example/images/%s",`+
		`"detail":[{"rule":"signatures","message":"%s"}]}]}`+"\n", prefix, reason, c, reason)
}

func errorBody(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`+"\n", code, message)
}

// checkedHeaders returns the headers of w by name, those apart that every answer has, after checking these.
func checkedHeaders(t *testing.T, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	h := map[string]string{}
	for name, values := range maps.All(w.Header()) {
		h[name] = strings.Join(values, " | ")
	}
	for name, want := range map[string]string{"Docker-Distribution-Api-Version": "registry/2.0", "X-Content-Type-Options": "nosniff"} {
		if got := h[name]; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		delete(h, name)
	}
	if len(h["X-Request-Id"]) != 26 {
		t.Errorf("X-Request-Id: got %q, want a random one", h["X-Request-Id"])
	}
	delete(h, "X-Request-Id")
	return h
}
