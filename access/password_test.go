package access_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/tidewaiter/tidewaiter/access"
)

func passwordPlace(t testing.TB) *place {
	return newPlace(t, func(p *place, o *access.Options) {
		o.HtpasswdFile = p.write(t, "htpasswd", "# people\n\n"+hash(t, "ci", "secret")+hash(t, "ops", "other"))
	})
}

func TestPasswords(t *testing.T) {
	p := passwordPlace(t)
	for _, tt := range []struct {
		law            string
		user, password string
		want           string // empty for UNAUTHORIZED
	}{
		{"the right password is its user's", "ci", "secret", "user:ci"},
		{"remembered, too", "ci", "secret", "user:ci"},
		{"a wrong one is nobody's", "ci", "Secret", ""},
		{"nor is another user's", "ci", "other", ""},
		{"an empty one neither", "ci", "", ""},
		{"who is not known is refused", "nobody", "secret", ""},
		{"a robot's name is no user's", "robot+ci", "secret", ""},
		{"names are as they are written", "CI", "secret", ""},
	} {
		caller, err := p.Identify(basic(tt.user, tt.password))
		if caller.Name != tt.want || (tt.want == "") != (status(err) == 401) {
			t.Errorf("%s: got %q, %v", tt.law, caller.Name, err)
		}
		if err != nil && err.Error() != "the credentials are not valid" {
			t.Errorf("%s: the client is told %q", tt.law, err)
		}
	}
}

func TestPasswordsAreComparedWhole(t *testing.T) {
	long := strings.Repeat("x", 72)
	p := newPlace(t, func(p *place, o *access.Options) { o.HtpasswdFile = p.write(t, "htpasswd", hash(t, "ci", long)) })
	if _, err := p.Identify(basic("ci", long+"y")); status(err) != 401 {
		t.Errorf("a password that only begins right: got %v", err)
	}
	p.must(t, basic("ci", long))
}

func TestCredentialsThatAreNoneAreNotAnonymous(t *testing.T) {
	p := newPlace(t, func(_ *place, o *access.Options) { o.Anonymous = []access.Rule{rule("pull", "**")} })
	for name, fill := range map[string]func(*http.Request){
		"a password where there are none": func(r *http.Request) { r.SetBasicAuth("ci", "secret") },
		"a robot where there are none":    func(r *http.Request) { r.SetBasicAuth("robot+ci", "secret") },
		"a token where there are none":    func(r *http.Request) { r.Header.Set("Authorization", "Bearer a.b.c") },
		"an empty header":                 func(r *http.Request) { r.Header.Set("Authorization", "") },
		"a scheme alone":                  func(r *http.Request) { r.Header.Set("Authorization", "Basic") },
		"an empty token":                  func(r *http.Request) { r.Header.Set("Authorization", "Bearer  ") },
		"another scheme":                  func(r *http.Request) { r.Header.Set("Authorization", "Digest a") },
		"two headers":                     func(r *http.Request) { r.Header["Authorization"] = []string{"", ""} },
		"no base64":                       func(r *http.Request) { r.Header.Set("Authorization", "Basic ci:secret") },
		"a user without a password":       func(r *http.Request) { r.Header.Set("Authorization", "Basic Y2k=") },
		"no user":                         func(r *http.Request) { r.SetBasicAuth("", "secret") },
		"a line end in a name":            func(r *http.Request) { r.SetBasicAuth("a\nb", "secret") },
		"a huge header":                   func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.Repeat("a", 30<<10)) },
	} {
		if caller, err := p.Identify(asking(fill)); status(err) != 401 || !caller.IsZero() {
			t.Errorf("%s: got %+v, %v", name, caller, err)
		}
	}
	if caller := p.must(t, asking(nil)); !caller.Anonymous() || caller.Address != "192.0.2.7" {
		t.Errorf("no credentials: got %+v", caller)
	}
}

func TestChangedPasswords(t *testing.T) {
	p := passwordPlace(t)
	p.must(t, basic("ci", "secret"))
	p.write(t, "htpasswd", hash(t, "ci", "new"))
	p.must(t, basic("ci", "secret")) // within a second
	p.clock.pass(time.Second)
	if _, err := p.Identify(basic("ci", "secret")); status(err) != 401 {
		t.Errorf("the old password: got %v", err)
	}
	p.must(t, basic("ci", "new"))

	p.write(t, "htpasswd", "ci:plain\n")
	p.clock.pass(time.Second)
	p.must(t, basic("ci", "new"))
	p.clock.pass(time.Second)
	p.must(t, basic("ci", "new"))
	if got := p.count(access.EventReloadFailed); got != 1 {
		t.Errorf("a bad file was complained of %d times, want once", got)
	}
	p.write(t, "htpasswd", hash(t, "ops", "x"))
	p.Reload(t.Context()) // which does not wait for the second
	p.must(t, basic("ops", "x"))
	if _, err := p.Identify(basic("ci", "new")); status(err) != 401 {
		t.Errorf("a user who is gone: got %v", err)
	}
	if got := p.count(access.EventReloaded); got != 2 {
		t.Errorf("%d files came into force, want 2", got)
	}
}

func TestGuessingIsSlowed(t *testing.T) {
	p := passwordPlace(t)
	from := func(addr, user, password string) error {
		r := basic(user, password)
		r.RemoteAddr = addr + ":1"
		r.Header.Set("X-Forwarded-For", "198.51.100.1")
		_, err := p.Identify(r)
		return err
	}
	for range 6 {
		if err := from("192.0.2.1", "ci", "wrong"); status(err) != 401 {
			t.Fatalf("got %v", err)
		}
	}
	retry := func(err error) string {
		w := newAnswer(err)
		return w.Header().Get("Retry-After")
	}
	for _, tt := range []struct {
		law                  string
		addr, user, password string
		status               int
		retry                string
	}{
		{"who failed often waits", "192.0.2.1", "ci", "wrong", 429, "1"},
		{"even for the right password", "192.0.2.1", "ci", "secret", 429, "1"},
		{"as another user he does not, yet", "192.0.2.1", "ops", "other", 200, ""},
		{"from elsewhere the user is let in", "192.0.2.2", "ci", "secret", 200, ""},
		{"and is then known everywhere", "192.0.2.1", "ci", "secret", 200, ""},
	} {
		err := from(tt.addr, tt.user, tt.password)
		if status(err) != tt.status || retry(err) != tt.retry {
			t.Errorf("%s: got %v, Retry-After %q", tt.law, err, retry(err))
		}
	}
	var waits []string
	for range 9 { // each failure doubles the wait
		p.clock.pass(time.Minute)
		if err := from("192.0.2.1", "ci", "wrong"); status(err) != 401 {
			t.Fatalf("after the longest wait: got %v", err)
		}
		waits = append(waits, retry(from("192.0.2.1", "ci", "wrong")))
	}
	if got, want := strings.Join(waits, " "), "2 4 8 16 32 60 60 60 60"; got != want {
		t.Errorf("waits: got %s, want %s", got, want)
	}
	p.clock.pass(time.Minute)
	if err := from("192.0.2.1", "ci", "secret"); err != nil {
		t.Fatalf("the right password after the wait: got %v", err)
	}
	if err := from("192.0.2.1", "ci", "wrong"); status(err) != 401 {
		t.Errorf("success does not count: got %v", err)
	}
}

func TestPlacesAreSlowedWhateverNameTheyTry(t *testing.T) {
	p := passwordPlace(t)
	try := func(addr, user, password string) error {
		r := basic(user, password)
		r.RemoteAddr = addr
		_, err := p.Identify(r)
		return err
	}
	for i := range 31 {
		if err := try("[2001:db8::1]:1", "nobody"+strings.Repeat("x", i), "x"); status(err) != 401 {
			t.Fatalf("failure %d: got %v", i, err)
		}
	}
	for _, tt := range []struct {
		law, addr string
		status    int
	}{
		{"the /64 of an IPv6 address is one place", "[2001:db8::ffff:1]:1", 429},
		{"the next /64 is another", "[2001:db8:0:1::1]:1", 200},
	} {
		if err := try(tt.addr, "ci", "secret"); status(err) != tt.status {
			t.Errorf("%s: got %v", tt.law, err)
		}
	}
	if err := try("[2001:db8::1]:1", "robot+x", "y"); status(err) != 401 {
		t.Errorf("robots wait for nobody: got %v", err)
	}
}

func TestOwnSuccessIsNoWayAroundTheWait(t *testing.T) {
	p := passwordPlace(t)
	compared := 0
	for range 30 { // somebody with an account guesses another's between his own logins
		p.clock.pass(time.Second)
		p.Reload(t.Context()) // nothing is remembered
		p.must(t, basic("ci", "secret"))
		if _, err := p.Identify(basic("ops", "guess")); status(err) == 401 {
			compared++
		}
	}
	if compared > 10 {
		t.Errorf("%d of 30 guesses were compared, want 10 at most", compared)
	}
}

func TestHtpasswdIsReadStrictly(t *testing.T) {
	good := hash(t, "a", "b")
	costly := strings.Replace(good, "$04$", "$31$", 1)
	for name, tt := range map[string]struct{ text, want string }{
		"SHA-1":             {"a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n", "line 1: not a bcrypt hash"},
		"MD5":               {"# x\n\na:$apr1$x$y\n", "line 3: not a bcrypt hash"},
		"plain text":        {"a:secret\n", "line 1: not a bcrypt hash"},
		"no colon":          {good + "b\n", "line 2"},
		"no name":           {":" + strings.TrimPrefix(good, "a:"), "line 1: a name"},
		"a name with space": {"x " + good, "line 1: a name"},
		"a pattern":         {"*" + good, "line 1: a name"},
		"a robot's name":    {"robot+" + good, "robots'"},
		"a name twice":      {good + good, "line 2: \"a\" is there twice"},
		"endless hashing":   {costly, "line 1: a cost of 31"},
		"a cut hash":        {good[:50] + "\n", "line 1: a broken bcrypt hash"},
		"a longer hash":     {strings.TrimSpace(good) + "x\n", "line 1: a broken bcrypt hash"},
	} {
		_, err := tryPlace(t, func(p *place, o *access.Options) { o.HtpasswdFile = p.write(t, "htpasswd", tt.text) })
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "W6ph")) {
			t.Errorf("%s: the error shows what is secret: %v", name, err)
		}
	}
	for _, kind := range []string{"$2a$", "$2b$", "$2y$"} {
		p := newPlace(t, func(p *place, o *access.Options) {
			o.HtpasswdFile = p.write(t, "htpasswd", strings.Replace(strings.TrimSpace(good), "$2a$", kind, 1)+"\r\n")
		})
		p.must(t, basic("a", "b"))
	}
	if _, err := bcrypt.Cost([]byte(strings.TrimSpace(strings.TrimPrefix(good, "a:")))); err != nil {
		t.Fatal(err)
	}
}

// What identifies a user is remembered; nothing in it is to be found by looking at the process.
func BenchmarkWarmPassword(b *testing.B) {
	p := passwordPlace(b)
	r := basic("ci", "secret")
	p.must(b, r)
	b.ReportAllocs()
	for b.Loop() {
		p.must(b, r)
	}
}
