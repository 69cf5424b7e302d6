package proxy

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// everyCase returns a fixture with one tag of app for each case, and the candidates by tag.
func everyCase(t *testing.T) (*fixture, map[string]gate.Candidate) {
	f := newFixture(t)
	c := map[string]gate.Candidate{}
	for _, tag := range []string{
		"clean", "denied", "withdrawn", "kept", "slow", "slow-once", "warned", "stale", "upstream-fails", "gone", "schema1",
		"denied-inside", "limited-inside", "moved", "swapped", "unreleased", "unknowable",
	} {
		c[tag] = f.image(app, tag, tag)
	}
	f.allow(c["clean"], c["kept"], c["stale"], c["unreleased"])
	f.deny(c["denied"], "unsigned")
	f.deny(c["withdrawn"], "unsigned")
	f.once[c["withdrawn"]], f.once[c["kept"]], f.once[c["slow-once"]] = true, true, true
	f.steps[c["slow"]], f.steps[c["slow-once"]] = gate.StepInventory, gate.StepMatch
	f.verdicts[c["warned"]] = gate.Verdict{
		Decision: gate.Allow, Repository: app, Digest: c["warned"].Digest, Policy: "dev",
		Warnings: []gate.Reason{{Message: "says \"hi\"\\\r\nSet-Cookie: x\x1b[31m — ä"}},
	}
	f.once[c["warned"]] = true
	f.shelf.stale[app.String()+":stale"] = true
	f.judge.failures[c["upstream-fails"]] = &gate.NoVerdict{Step: gate.StepRecord, Err: errInternal}
	f.judge.failures[c["gone"]] = &gate.NoVerdict{Step: gate.StepHold, Err: fmt.Errorf("fetching: %w", oci.ErrNotFound)}
	f.judge.failures[c["schema1"]] = &gate.NoVerdict{Step: gate.StepHold, Err: &oci.Error{Code: oci.CodeManifestInvalid, Message: "schema 1"}}
	f.judge.failures[c["denied-inside"]] = &gate.NoVerdict{Step: gate.StepVerify, Err: &oci.Error{Code: oci.CodeDenied, Message: "not ours to say"}}
	f.judge.failures[c["limited-inside"]] = &gate.NoVerdict{Step: gate.StepHold, Err: oci.ErrRateLimited}
	f.verdicts[c["moved"]] = f.verdicts[c["clean"]] // a verdict on something else
	f.allow(c["swapped"])
	f.manifests[c["swapped"]] = f.manifests[c["clean"]] // content of something else
	delete(f.manifests, c["unreleased"])
	f.shelf.failures["released "+c["unknowable"].String()] = errInternal
	for tag, err := range map[string]error{
		"unauthorized": oci.ErrUnauthorized, "limited": oci.ErrRateLimited, "down": oci.ErrUnavailable, "odd": errInternal,
		"refused-upstream": &oci.Error{Code: oci.CodeDenied, Message: "an upstream's word"},
	} {
		f.shelf.failures[app.String()+":"+tag] = err
	}
	return f, c
}

func contentHeaders(content oci.Content) map[string]string {
	return map[string]string{
		"Content-Type": content.MediaType, "Content-Length": strconv.Itoa(len(content.Raw)), "Accept-Ranges": "bytes",
		"Docker-Content-Digest": content.Digest.String(), "Etag": `"` + content.Digest.String() + `"`, "Cache-Control": "private, no-cache",
	}
}

// errorHeaders are those of an error with this body; extra alternates names and values.
func errorHeaders(body string, extra ...string) map[string]string {
	h := map[string]string{"Content-Type": "application/json", "Content-Length": strconv.Itoa(len(body)), "Cache-Control": "no-store"}
	for i := 0; i < len(extra); i += 2 {
		h[extra[i]] = extra[i+1]
	}
	return h
}

func with(h map[string]string, name, value string) map[string]string {
	h[name] = value
	return h
}

// TestManifestAnswers is the table of the promises about manifests, for requests that no mirror sends.
func TestManifestAnswers(t *testing.T) {
	f, c := everyCase(t)
	raw := func(tag string) string { return string(f.manifests[c[tag]].Raw) }
	unavailable := func(message string) string { return errorBody("UNAVAILABLE", message) }
	denied, withdrawn := denialBody(c["denied"], "", "unsigned"), denialBody(c["withdrawn"], "", "unsigned")
	const retry = "Retry-After"
	warning := `299 - "dev: says \"hi\"\\  Set-Cookie: x [31m ? ?"`
	headOf := func(tag string) map[string]string { // without a verdict there is nothing to take a part of
		h := contentHeaders(f.manifests[c[tag]])
		delete(h, "Accept-Ranges")
		return h
	}
	for _, tt := range []struct {
		law, method, reference string
		wantStatus             int
		wantHeaders            map[string]string
		wantBody               string
	}{
		{"allowed", "GET", "clean", 200, contentHeaders(f.manifests[c["clean"]]), raw("clean")},
		{"allowed, by digest", "GET", c["clean"].Digest.String(), 200, contentHeaders(f.manifests[c["clean"]]), raw("clean")},
		{"allowed, HEAD before anybody had it", "HEAD", "clean", 200, headOf("clean"), ""},
		{"allowed, HEAD by digest", "HEAD", c["clean"].Digest.String(), 200, headOf("clean"), ""},
		{"allowed, HEAD after it was released", "HEAD", "kept", 200, contentHeaders(f.manifests[c["kept"]]), ""},
		{"denied", "GET", "denied", 403, errorHeaders(denied), denied},
		{"denied, by digest", "GET", c["denied"].Digest.String(), 403, errorHeaders(denied), denied},
		{"denied, HEAD gives the digest", "HEAD", "denied", 200, headOf("denied"), ""},
		{"denied, HEAD by digest", "HEAD", c["denied"].Digest.String(), 200, headOf("denied"), ""},
		{"withdrawn", "GET", "withdrawn", 403, errorHeaders(withdrawn), withdrawn},
		{"withdrawn, HEAD refuses", "HEAD", "withdrawn", 403, errorHeaders(withdrawn), ""},
		{"withdrawn, HEAD by digest refuses", "HEAD", c["withdrawn"].Digest.String(), 403, errorHeaders(withdrawn), ""},
		{"still judging", "GET", "slow", 503, errorHeaders(unavailable("judging in progress: reading layers"), retry, "5"), unavailable("judging in progress: reading layers")},
		{"still judging, HEAD does not wait", "HEAD", "slow", 200, headOf("slow"), ""},
		{"still judging again what was released", "HEAD", "slow-once", 503, errorHeaders(unavailable("judging in progress: matching advisories"), retry, "5"), ""},
		{"could not judge", "GET", "upstream-fails", 503, errorHeaders(unavailable("could not judge: recording"), retry, "5"), unavailable("could not judge: recording")},
		{"could not look up what was released", "HEAD", "unknowable", 503, errorHeaders(unavailable("could not look up what was released"), retry, "5"), ""},
		{"a denial among the causes is no denial", "GET", "denied-inside", 503, errorHeaders(unavailable("could not judge: verifying signatures"), retry, "5"), unavailable("could not judge: verifying signatures")},
		{"gone between resolving and holding", "GET", "gone", 404, errorHeaders(errorBody("MANIFEST_UNKNOWN", "the manifest is not known")), errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
		{"what cannot be understood", "GET", "schema1", 400, errorHeaders(errorBody("MANIFEST_INVALID", "schema 1")), errorBody("MANIFEST_INVALID", "schema 1")},
		{"the upstream limits the rate while judging", "GET", "limited-inside", 503, errorHeaders(errorBody("TOOMANYREQUESTS", "the upstream limits the rate of requests"), retry, "5"), errorBody("TOOMANYREQUESTS", "the upstream limits the rate of requests")},
		{"a verdict on something else counts for nothing", "GET", "moved", 500, errorHeaders(errorBody("UNKNOWN", "internal error")), errorBody("UNKNOWN", "internal error")},
		{"content of something else is not served", "GET", "swapped", 500, errorHeaders(errorBody("UNKNOWN", "internal error")), errorBody("UNKNOWN", "internal error")},
		{"allowed but not there", "GET", "unreleased", 503, errorHeaders(unavailable("could not read the manifest"), retry, "5"), unavailable("could not read the manifest")},
		{"warned", "GET", "warned", 200, with(contentHeaders(f.manifests[c["warned"]]), "Warning", warning), raw("warned")},
		{"warned, HEAD", "HEAD", "warned", 200, with(contentHeaders(f.manifests[c["warned"]]), "Warning", warning), ""},
		{"stale", "GET", "stale", 200, with(contentHeaders(f.manifests[c["stale"]]), "Warning", `110 - "`+staleWarning+`"`), raw("stale")},
		{"stale, HEAD", "HEAD", "stale", 200, with(headOf("stale"), "Warning", `110 - "`+staleWarning+`"`), ""},
		{"unknown upstream", "GET", "nothing", 404, errorHeaders(errorBody("MANIFEST_UNKNOWN", "the manifest is not known")), errorBody("MANIFEST_UNKNOWN", "the manifest is not known")},
		{"unknown upstream, HEAD by digest", "HEAD", oci.FromBytes(nil).String(), 404, errorHeaders(errorBody("MANIFEST_UNKNOWN", "the manifest is not known")), ""},
		{"unauthorized upstream, our realm", "GET", "unauthorized", 401, errorHeaders(errorBody("UNAUTHORIZED", "the upstream refuses the credentials it was given"), "Www-Authenticate", `Basic realm="tidewaiter"`), errorBody("UNAUTHORIZED", "the upstream refuses the credentials it was given")},
		{"rate-limited upstream", "GET", "limited", 503, errorHeaders(errorBody("TOOMANYREQUESTS", "the upstream limits the rate of requests"), retry, "5"), errorBody("TOOMANYREQUESTS", "the upstream limits the rate of requests")},
		{"upstream down", "HEAD", "down", 503, errorHeaders(unavailable("the upstream does not answer"), retry, "5"), ""},
		{"a failure nobody has a name for", "GET", "odd", 503, errorHeaders(unavailable("could not resolve the tag"), retry, "5"), unavailable("could not resolve the tag")},
		{"what an upstream calls a denial is not ours", "GET", "refused-upstream", 503, errorHeaders(unavailable("could not resolve the tag"), retry, "5"), unavailable("could not resolve the tag")},
	} {
		t.Run(tt.law, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, _ := everyCase(t)
				w := f.do(tt.method, "/v2/docker.io/library/app/manifests/"+tt.reference)
				if w.Code != tt.wantStatus {
					t.Errorf("status: got %d, want %d", w.Code, tt.wantStatus)
				}
				if diff := cmp.Diff(tt.wantHeaders, checkedHeaders(t, w)); diff != "" {
					t.Errorf("headers (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.wantBody, w.Body.String()); diff != "" {
					t.Errorf("body (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestHeadStartsTheJudgingAndGetWaits(t *testing.T) {
	f, c := everyCase(t)
	f.do("HEAD", "/v2/docker.io/library/app/manifests/denied")
	if diff := cmp.Diff([]gate.Candidate{c["denied"]}, f.started); diff != "" {
		t.Errorf("HEAD starts (-want +got):\n%s", diff)
	}
	if len(f.judged) != 0 || len(f.opened) != 0 {
		t.Errorf("HEAD waits for %v and opens %v, want neither", f.judged, f.opened)
	}
	f.do("GET", "/v2/docker.io/library/app/manifests/denied")
	if diff := cmp.Diff([]gate.Candidate{c["denied"]}, f.judged); diff != "" {
		t.Errorf("GET waits for (-want +got):\n%s", diff)
	}
	if len(f.opened) != 0 {
		t.Errorf("a denied manifest was opened: %v", f.opened)
	}
}

func TestUpstreamThatAnswersADigestWithAnother(t *testing.T) {
	f, c := everyCase(t)
	f.tags[app.String()+":"+c["clean"].Digest.String()] = f.manifests[c["denied"]].Descriptor()
	w := f.do("HEAD", "/v2/docker.io/library/app/manifests/"+c["clean"].Digest.String())
	if w.Code != 503 || len(f.started) != 0 || w.Header().Get("Docker-Content-Digest") != "" {
		t.Errorf("got %d %v, started %v", w.Code, w.Header(), f.started)
	}
}

func TestMalformedIndexIsNotServedToAMirror(t *testing.T) {
	f := newFixture(t)
	f.allow(f.manifest(app, "odd", oci.MediaTypeIndex, `{"schemaVersion":2,"manifests":[],"layers":[]}`))
	if w := f.do("GET", "/v2/library/app/manifests/odd?ns=docker.io"); w.Code != 400 {
		t.Errorf("got %d %s, want 400", w.Code, w.Body)
	}
}

func TestEntityTags(t *testing.T) {
	f, c := everyCase(t)
	tag := func(name string) string { return `"` + c[name].Digest.String() + `"` }
	for _, tt := range []struct {
		law, reference, match string
		want                  int
	}{
		{"what the client has, and may have", "clean", tag("clean"), 304},
		{"among others, weakly", "clean", `"x", W/` + tag("clean"), 304},
		{"whatever the client has", "clean", "*", 304},
		{"what the client no longer has", "clean", tag("denied"), 200},
		{"what the client has and may no longer have", "withdrawn", tag("withdrawn"), 403},
		{"what the client has and nobody can judge", "upstream-fails", "*", 503},
	} {
		t.Run(tt.law, func(t *testing.T) {
			w := f.do("GET", "/v2/docker.io/library/app/manifests/"+tt.reference, "If-None-Match", tt.match)
			if w.Code != tt.want {
				t.Errorf("got %d, want %d", w.Code, tt.want)
			}
			if w.Code == 304 && (w.Body.Len() > 0 || w.Header().Get("Docker-Content-Digest") != c[tt.reference].Digest.String()) {
				t.Errorf("304 with %d bytes and %v", w.Body.Len(), w.Header())
			}
		})
	}
}

func TestMessagesAreBoundedAndHarmless(t *testing.T) {
	f := newFixture(t)
	c := f.image(app, "loud", "loud")
	v := gate.Verdict{Repository: app, Digest: c.Digest, Policy: "p"}
	long := string(make([]byte, 3000))
	for range 5000 {
		v.Reasons = append(v.Reasons, gate.Reason{Rule: gate.RuleGap, Message: "\x1b[2J\u202e" + long})
	}
	f.verdicts[c] = v
	w := f.do("GET", "/v2/docker.io/library/app/manifests/loud")
	if w.Code != 403 || w.Body.Len() > 64_000 {
		t.Fatalf("got %d with %d bytes, want 403 with no more than clients parse", w.Code, w.Body.Len())
	}
	var got struct {
		Errors []struct {
			Message string
			Detail  []gate.Reason
		}
	}
	decode(t, w.Body.Bytes(), &got)
	message := got.Errors[0].Message
	for _, r := range message {
		if r < ' ' || r == '\u202e' {
			t.Fatalf("%q has a character a terminal acts on", message)
		}
	}
	if len(got.Errors[0].Detail) == 0 || len(message) > 1200 {
		t.Errorf("%d reasons and a message of %d bytes", len(got.Errors[0].Detail), len(message))
	}
	t.Run("a denial without a reason still says so", func(t *testing.T) {
		c := f.image(app, "silent", "silent")
		w := f.do("GET", "/v2/docker.io/library/app/manifests/silent")
		want := errorBody("DENIED", "denied — https://tide.example/images/"+c.String())
		if w.Code != http.StatusForbidden || w.Body.String() != want {
			t.Errorf("got %d %s, want %s", w.Code, w.Body, want)
		}
	})
	t.Run("a cut keeps characters whole", func(t *testing.T) {
		got := oneLine("x" + strings.Repeat("ä", 1000))
		if len(got) > maxMessageBytes+len("…") || got != strings.ToValidUTF8(got, "") {
			t.Errorf("%d bytes: %q", len(got), got[len(got)-8:])
		}
	})
}
