from .vocabulary import Vocabulary as Vocabulary
