package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// everybodysPassword is the password of all users of a site.
const everybodysPassword = "correct horse"

// hostApps has the site host apps/**, with users: ci pushes and deletes, signer signs, reader has no right of its own. Everybody may pull
// everything.
func (s *site) hostApps(t *testing.T) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(everybodysPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var users strings.Builder
	for _, name := range []string{"ci", "signer", "reader"} {
		fmt.Fprintf(&users, "%s:%s\n", name, hash)
	}
	writeFile(t, s.path("htpasswd"), []byte(users.String()))
	s.config["hosted"] = []any{keys{"repositories": []string{"apps/**"}}}
	s.config["access"] = keys{
		"anonymous": []any{keys{"repositories": []string{"**"}, "actions": []string{"pull"}}},
		"basic":     keys{"htpasswd_file": s.path("htpasswd")},
		"grants": []any{
			keys{"who": "user:ci", "repositories": []string{"apps/**"}, "actions": []string{"push", "delete"}},
			keys{"who": "user:signer", "repositories": []string{"apps/**"}, "actions": []string{"sign"}},
		},
	}
}

// pusher is somebody who pushes to a proxy.
type pusher struct {
	t    *testing.T
	p    *server
	name string // empty for nobody
}

// anyone returns a token that is good for what everybody may do in a repository.
func (u pusher) anyone(repo string) string {
	u.t.Helper()
	var issued struct{ Token string }
	r := u.p.get(u.t, "/token?service=tidewaiter&scope=repository:"+repo+":pull")
	if err := json.Unmarshal(r.body, &issued); err != nil || issued.Token == "" {
		u.t.Fatalf("no token for nobody: %d %s", r.status, r.body)
	}
	return issued.Token
}

// send sends one request.
func (u pusher) send(method, path string, body io.Reader, header ...string) reply {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), method, "http://"+u.p.registry+path, body)
	if err != nil {
		u.t.Fatal(err)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	asked, err := oci.ParseRequest(method, req.URL)
	switch {
	case u.name != "":
		req.SetBasicAuth(u.name, everybodysPassword)
	case err == nil && asked.Name != "":
		req.Header.Set("Authorization", "Bearer "+u.anyone(asked.Name))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }() // read whole
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: raw}
}

// must is send, and fails the test when the answer is another one.
func (u pusher) must(want int, method, path string, body io.Reader, header ...string) reply {
	u.t.Helper()
	r := u.send(method, path, body, header...)
	if r.status != want {
		u.t.Fatalf("%s %s by %q: got %d %s, want %d", method, path, u.name, r.status, r.body, want)
	}
	return r
}

// blob uploads a blob.
func (u pusher) blob(repo string, content []byte) {
	u.t.Helper()
	at := u.must(202, "POST", "/v2/"+repo+"/blobs/uploads/", nil).header.Get("Location")
	u.must(201, "PUT", at+"?digest="+oci.FromBytes(content).String(), bytes.NewReader(content))
}

// manifest uploads a manifest.
func (u pusher) manifest(repo, reference string, content oci.Content) reply {
	u.t.Helper()
	return u.must(201, "PUT", "/v2/"+repo+"/manifests/"+reference, bytes.NewReader(content.Raw), "Content-Type", content.MediaType)
}

// image copies a manifest and its blobs from a registry, under reference, or its digest if that is empty.
func (u pusher) image(from *ocitest.Registry, source string, d oci.Digest, repo, reference string) {
	u.t.Helper()
	content, ok := from.Manifest(source, d.String())
	if !ok {
		u.t.Fatalf("there is no %s@%s", source, d)
	}
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		u.t.Fatal(err)
	}
	for _, desc := range m.Blobs() {
		blob, ok := from.Blob(source, desc.Digest)
		if !ok {
			u.t.Fatalf("there is no blob %s in %s", desc.Digest, source)
		}
		u.blob(repo, blob)
	}
	if reference == "" {
		reference = d.String()
	}
	u.manifest(repo, reference, content)
}

// signed signs an image of the upstream with key, and pushes the signature to where the image was pushed.
func (u pusher) signed(s *site, source string, d oci.Digest, repo string, key *ocitest.Key) {
	u.t.Helper()
	signature, err := s.upstream.SignBundle(source, d, key, ocitest.Statement{}, ocitest.Mint{})
	if err != nil {
		u.t.Fatal(err)
	}
	u.image(s.upstream, source, signature.Digest, repo, "")
}
