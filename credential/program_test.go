package credential

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// shell returns a configuration whose program is a shell script. The script is started as if it was called "get".
func shell(script string, environment ...string) Config {
	return Config{Registry: "registry.test:5000", Helper: "exec", Command: []string{"/bin/sh", "-c", script}, Environment: environment}
}

func ask(t *testing.T, c Config) (username, password string, err error) {
	t.Helper()
	cache, err := New(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cache.Credential(t.Context())
}

func TestProgram(t *testing.T) {
	t.Setenv("TIDEWAITER_REDIS_URL", "redis://:secret@redis")
	const answer = `echo '{"ServerURL":"x","Username":"u","Secret":"p"}'`
	for name, tc := range map[string]struct {
		config  Config
		want    string // user name and password, with a colon between
		wantErr string
	}{
		"a credential":           {shell(answer), "u:p", ""},
		"an identity token":      {shell(`echo '{"Username":"<token>","Secret":"t"}'`), Token + ":t", ""},
		"is told the registry":   {shell(`read server; echo "{\"Username\":\"$0\",\"Secret\":\"$server\"}"`), "get:registry.test:5000", ""},
		"has an environment":     {shell(`echo "{\"Username\":\"u\",\"Secret\":\"$VAULT\"}"`, "VAULT=here"), "u:here", ""},
		"and nothing of ours":    {shell(`echo "{\"Username\":\"u\",\"Secret\":\"${TIDEWAITER_REDIS_URL:-none}\"}"`), "u:none", ""},
		"complains by the book":  {shell(`echo "the vault is closed"; exit 1`), "", "the vault is closed"},
		"complains elsewhere":    {shell(`echo "the vault is closed" >&2; exit 3`), "", "the vault is closed"},
		"knows nothing":          {shell(`echo "credentials not found in native keychain"; exit 1`), "", errUnknown.Error()},
		"answers and fails":      {shell(answer + `; exit 1`), "", "exit status 1"},
		"says nothing":           {shell(`true`), "", "does not answer with Username and Secret"},
		"says something else":    {shell(`echo "p is the password"`), "", "does not answer with Username and Secret"},
		"has no password":        {shell(`echo '{"Username":"u"}'`), "", "does not answer with Username and Secret"},
		"does not come to a end": {shell(`head -c 70000 /dev/zero`), "", "more than 65536 bytes"},
		"is killed":              {shell(`kill -9 $$`), "", "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			username, password, err := ask(t, tc.config)
			if tc.wantErr == "" {
				if got := username + ":" + password; err != nil || got != tc.want {
					t.Fatalf("got %s, %v, want %s", got, err, tc.want)
				}
				return
			}
			if err == nil || username != "" || password != "" || !strings.Contains(err.Error(), tc.wantErr) {
				t.Fatalf("got %q, %q, %v, want %q alone", username, password, err, tc.wantErr)
			}
			if strings.Contains(err.Error(), `"p"`) || strings.Contains(err.Error(), "p is") {
				t.Errorf("got %v, which repeats what may be a secret", err)
			}
		})
	}
}

// A program that does not end is ended, and so is the waiting for its children.
func TestProgramIsEnded(t *testing.T) {
	p, err := newProgram([]string{"/bin/sh", "-c", "echo started; sleep 600 & wait"}, "registry.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Credential(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}
