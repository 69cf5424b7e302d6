package credential

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const ecrRegistry = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"

// amazon stands in for the cloud's API, which is found by the environment alone.
func amazon(t *testing.T, handler http.HandlerFunc) {
	t.Helper()
	api := httptest.NewServer(handler)
	t.Cleanup(api.Close)
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_ECR": api.URL, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "key", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true", "AWS_PROFILE": "", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
}

func TestECR(t *testing.T) {
	until := time.Now().Add(12 * time.Hour).Truncate(time.Second).UTC()
	token := func(text string) string {
		return fmt.Sprintf(`{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d}]}`, base64.StdEncoding.EncodeToString([]byte(text)), until.Unix())
	}
	for name, tc := range map[string]struct {
		status  int
		body    string
		want    Credential
		wantErr string
	}{
		"a password":    {200, token("AWS:secret"), Credential{"AWS", "secret", until}, ""},
		"no token":      {200, `{"authorizationData":[]}`, Credential{}, "it gives no token"},
		"no colon":      {200, token("secret"), Credential{}, "not a user name and a password"},
		"no base64":     {200, `{"authorizationData":[{"authorizationToken":"secret!"}]}`, Credential{}, "not a user name and a password"},
		"not permitted": {400, `{"__type":"AccessDeniedException","message":"no"}`, Credential{}, "AccessDeniedException"},
	} {
		t.Run(name, func(t *testing.T) {
			amazon(t, func(w http.ResponseWriter, r *http.Request) {
				signed := r.Header.Get("Authorization")
				if !strings.Contains(signed, "/eu-west-1/ecr/aws4_request") || r.Header.Get("X-Amz-Target") != "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" {
					t.Errorf("got %s for %s", signed, r.Header.Get("X-Amz-Target"))
				}
				w.Header().Set("Content-Type", "application/x-amz-json-1.1")
				w.WriteHeader(tc.status)
				_, _ = w.Write([]byte(tc.body))
			})
			source, err := Config{Registry: ecrRegistry, URL: "https://" + ecrRegistry, Helper: "ecr"}.source()
			if err != nil {
				t.Fatal(err)
			}
			got, err := source.Credential(t.Context())
			if got != tc.want || (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got %v, %v, want %v, %q", got, err, tc.want, tc.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, which repeats what may be a secret", err)
			}
		})
	}
}

func TestRegionsOfECR(t *testing.T) {
	for host, want := range map[string]string{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com":          "eu-west-1",
		"123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com": "us-gov-west-1",
		"123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn":      "cn-north-1",
		"123456789012.dkr-ecr.eu-west-1.on.aws":                 "eu-west-1",
		"123456789012.dkr-ecr-fips.us-east-1.on.aws":            "us-east-1",
		"public.ecr.aws": "",
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.test": "",
		"evil.test/123456789012.dkr.ecr.eu-west-1.amazonaws.com": "",
		"1.dkr.ecr.eu-west-1.amazonaws.com":                      "",
		"registry.test":                                          "",
	} {
		got := ""
		if m := ecrHost.FindStringSubmatch(host); m != nil {
			got = m[1]
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

// What a cloud gives is for the cloud's own registries, whatever they are called by clients.
func TestCloudHost(t *testing.T) {
	matches := func(host string) bool { return host == "a.cloud.test" }
	for name, tc := range map[string]struct {
		registry, url string
		want          string
	}{
		"its own name":           {"a.cloud.test", "https://a.cloud.test", "a.cloud.test"},
		"under another name":     {"registry.test", "https://a.cloud.test:443", "a.cloud.test"},
		"in name only":           {"a.cloud.test", "https://evil.test", ""},
		"played by this machine": {"a.cloud.test", "http://127.0.0.1:5000", "a.cloud.test"},
		"this machine itself":    {"registry.test", "http://127.0.0.1:5000", ""},
		"by a name for it":       {"a.cloud.test", "http://localhost", ""},
		"a malformed URL":        {"a.cloud.test", "https://%zz", ""},
	} {
		got, err := Config{Registry: tc.registry, URL: tc.url, Helper: "x"}.cloudHost(matches)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tc.want)
		}
	}
}
