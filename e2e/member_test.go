package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"

	"github.com/tidewaiter/tidewaiter/internal/ocitest"
	"github.com/tidewaiter/tidewaiter/oci"
)

// hostedPolicy lets anything out below apps/open/, and below apps/signed/ what is signed.
const hostedPolicy = `policies:
  - name: open
    match: {repositories: ["apps/open/**"]}
    image: {max_bytes: 1GiB}
  - name: signed
    match: {repositories: ["apps/signed/**"]}
    require: {signatures: {any_of: [release]}}
  - name: production
    match: {repositories: ["**"]}
    require: {signatures: {any_of: [release]}}
    vulnerabilities: {deny_at: high, only_fixable: true}
`

// hostedSite is an installation that hosts apps/** under [hostedPolicy].
func hostedSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t, ocitest.Options{})
	s.hostApps(t)
	writeFile(t, s.path("policy.yaml"), []byte(hostedPolicy))
	return s
}

// member returns one of the site's users, whose clients know the password for the proxy by the file most of them read.
func (s *server) member(t *testing.T, name string) *user {
	t.Helper()
	u := newUser(t)
	u.credentials = name + ":" + everybodysPassword
	auth := base64.StdEncoding.EncodeToString([]byte(u.credentials))
	b, err := json.Marshal(keys{"auths": keys{s.registry: keys{"auth": auth}}})
	if err != nil {
		t.Fatal(err)
	}
	u.write(t, ".docker/config.json", string(b))
	return u
}

// fixAddress has the site listen on a port that is known before it is served: signatures in the tag form are about the name their signer
// knew the image by. It is below those that are given out to whoever takes any, and goes by n, so that no other test has it.
func (s *site) fixAddress(t *testing.T, n int) {
	t.Helper()
	const first, each = 20_000, 100 // ports; each n has a hundred, for runs of the tests at the same time
	for port := first + n*each + os.Getpid()%each; ; port++ {
		if port == first+(n+1)*each {
			t.Fatal("all ports are taken")
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		s.config["listen"].(keys)["registry"] = address
		return
	}
}

// hosted is how an image of a hosted repository is called.
func (s *server) hosted(repo string) string { return s.registry + "/" + repo + ":1.0" }

// checkServed checks that everybody gets an image of a hosted repository: the manifest, and every blob it refers to. It returns the
// manifest's digest.
func (s *server) checkServed(t *testing.T, repo, reference string) oci.Digest {
	t.Helper()
	nobody := pusher{t, s, ""}
	answer := nobody.must(http.StatusOK, "GET", "/v2/"+repo+"/manifests/"+reference, nil)
	m, err := oci.ParseManifest(oci.BaseMediaType(answer.header.Get("Content-Type")), answer.body)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Blobs() {
		got := nobody.must(http.StatusOK, "GET", "/v2/"+repo+"/blobs/"+d.Digest.String(), nil)
		if oci.FromBytes(got.body) != d.Digest {
			t.Errorf("%s: blob %s has %d bytes that are others", repo, d.Digest, len(got.body))
		}
	}
	for _, d := range m.Manifests {
		s.checkServed(t, repo, d.Digest.String())
	}
	return oci.FromBytes(answer.body)
}

// status returns how a request of anybody for a manifest of a hosted repository is answered.
func (s *server) status(t *testing.T, repo, reference string) int {
	t.Helper()
	return pusher{t, s, ""}.send("GET", "/v2/"+repo+"/manifests/"+reference, nil).status
}

// referrer is an entry of a list of referrers.
type referrer struct {
	Digest       oci.Digest
	ArtifactType string
}

// referrers returns what refers to a manifest of a hosted repository, and is of that type.
func (s *server) referrers(t *testing.T, repo string, subject oci.Digest, artifactType string) []referrer {
	t.Helper()
	answer := pusher{t, s, ""}.must(http.StatusOK, "GET", "/v2/"+repo+"/referrers/"+subject.String(), nil)
	var list struct{ Manifests []referrer }
	if err := json.Unmarshal(answer.body, &list); err != nil {
		t.Fatalf("%v: %s", err, answer.body)
	}
	return slices.DeleteFunc(list.Manifests, func(r referrer) bool { return r.ArtifactType != artifactType })
}
