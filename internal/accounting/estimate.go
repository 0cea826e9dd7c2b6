package accounting

// bytesPerToken is how long a token is taken to be. Measured with OpenAI's
// cl100k_base and o200k_base, which differ by a hundredth: Go 3.4 bytes (240
// files of Go's and this repository's, 1.5 MB), C 3.6, TypeScript 3.7, Markdown
// 4.1, Python 4.4; JSON is densest with 2.5. 3.5 lies on the careful side of
// what is analysed here.
const bytesPerToken = 3.5

// maxBytesPerToken is longer than tokens are on the average of any answer. An
// answer whose provider says that it had fewer tokens was cut off before the
// provider told: Claude, for one, says "1" or so at the beginning and the real
// number at the end.
const maxBytesPerToken = 32

// EstimateTokens returns about how many tokens a text of so many bytes has.
func EstimateTokens(bytes int64) int64 {
	if bytes <= 0 {
		return 0
	}
	return max(int64(float64(min(bytes, maxTokens))/bytesPerToken), 1)
}

// tooFew returns the least number of tokens that an answer of so many bytes is
// believed to have.
func tooFew(bytes int64) int64 {
	if bytes <= 0 {
		return 0
	}
	return (min(bytes, maxTokens)-1)/maxBytesPerToken + 1
}
