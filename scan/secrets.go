package scan

import (
	"bytes"

	"github.com/google/osv-scalibr/veles"
	"github.com/google/osv-scalibr/veles/secrets/anthropicapikey"
	"github.com/google/osv-scalibr/veles/secrets/awsaccesskey"
	"github.com/google/osv-scalibr/veles/secrets/azuretoken"
	"github.com/google/osv-scalibr/veles/secrets/digitaloceanapikey"
	"github.com/google/osv-scalibr/veles/secrets/dockerhubpat"
	"github.com/google/osv-scalibr/veles/secrets/gcpsak"
	"github.com/google/osv-scalibr/veles/secrets/github"
	"github.com/google/osv-scalibr/veles/secrets/gitlabpat"
	"github.com/google/osv-scalibr/veles/secrets/hashicorpvault"
	"github.com/google/osv-scalibr/veles/secrets/npmjsaccesstoken"
	"github.com/google/osv-scalibr/veles/secrets/openai"
	"github.com/google/osv-scalibr/veles/secrets/privatekey"
	"github.com/google/osv-scalibr/veles/secrets/pypiapitoken"
	"github.com/google/osv-scalibr/veles/secrets/slacktoken"
	"github.com/google/osv-scalibr/veles/secrets/stripeapikeys"

	"github.com/tidewaiter/tidewaiter/gate"
)

// secretKinds are what is looked for: credentials whose form alone tells what they are. They are found by regular expressions that
// take linear time; none is tried out anywhere.
var secretKinds = []struct {
	kind string
	new  func() veles.Detector
}{
	{"private key", privatekey.NewDetector},
	{"AWS access key", awsaccesskey.NewDetector},
	{"Azure token", azuretoken.NewDetector},
	{"Google service account key", func() veles.Detector { return gcpsak.NewDetector() }},
	{"DigitalOcean key", digitaloceanapikey.NewDetector},
	{"GitHub token", github.NewClassicPATDetector},
	{"GitHub token", github.NewFineGrainedPATDetector},
	{"GitHub token", github.NewOAuthTokenDetector},
	{"GitHub token", github.NewAppS2STokenDetector},
	{"GitHub token", github.NewAppU2SDetector},
	{"GitLab token", gitlabpat.NewDetector},
	{"Docker Hub token", dockerhubpat.NewDetector},
	{"npm token", npmjsaccesstoken.NewDetector},
	{"PyPI token", pypiapitoken.NewDetector},
	{"Vault token", hashicorpvault.NewTokenDetector},
	{"Slack token", slacktoken.NewAppLevelTokenDetector},
	{"Stripe key", stripeapikeys.NewSecretKeyDetector},
	{"Stripe key", stripeapikeys.NewRestrictedKeyDetector},
	{"OpenAI key", openai.NewDetector},
	{"Anthropic key", anthropicapikey.NewDetector},
}

// detector finds secrets of one kind.
type detector struct {
	kind string
	veles.Detector
}

func newDetectors() []detector {
	var all []detector
	for _, k := range secretKinds {
		all = append(all, detector{k.kind, k.new()})
	}
	return all
}

func knownSecret(kind string) bool {
	for _, k := range secretKinds {
		if k.kind == kind {
			return true
		}
	}
	return false
}

// binaryHeadBytes is how far a file is looked at for a NUL byte, which text does not have. It is where git looks, too.
const binaryHeadBytes = 8000

// findSecrets notes the secrets in f, unless it is a binary.
func (w *walk) findSecrets(f file) {
	if bytes.IndexByte(f.data[:min(len(f.data), binaryHeadBytes)], 0) >= 0 {
		return
	}
	for _, d := range w.detectors {
		if len(w.secrets) >= maxSecrets {
			return
		}
		if _, at := d.Detect(f.data); len(at) > 0 {
			w.secrets = append(w.secrets, gate.Secret{Kind: d.kind, Path: printable(f.path)})
		}
	}
}
